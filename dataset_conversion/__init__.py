"""From a dataset as it is downloaded to a checked dataset in nnU-Net's raw format, in one command.

    declare     what a dataset is: channels, labels, regions, licence; what a case is
    find        files and folders in a download, whatever is wrapped around them
    volumes     reading one file: what it really holds, where it lies in space, what is wrong with it
    check       everything about a case that must hold before anything is written
    convert     the engine: check all, then write all, resumable
    splits      folds that keep patients together and cohorts balanced
    report      what was found, repaired, warned about and refused

One file per dataset: asoca, brats, imagecas, btcv, aiib23, generic, msd; and probe, whose volumes are invented
(phantom, far_marker, thin_tree). Needs numpy, scipy, pandas, nibabel, SimpleITK, pynrrd and tqdm, nothing of nnU-Net
(but for msd) and nothing of nnunet_mamba.
"""
