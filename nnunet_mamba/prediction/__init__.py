"""Labels of new scans, for people who have a trained model and know nothing of nnU-Net.

images.py        arguments of a command -> cases with their channels
dicom.py         folders of DICOM files -> series, checked slice by slice
scans.py         a case's voxels and grid, checked, and as files that nnU-Net reads
model.py         a zip, a folder or a data set with a trainer -> a model, with what was stored beside it
fingerprint.py   warnings where a scan or its labels are unlike the training data
turned.py        scans as the training images lie, and labels back
predictor.py     nnU-Net's own predictor, with its progress
run.py           all cases: label maps, volumes, pictures, a page; complete or not there
page.py          the page
one_image.py     `nnunet_mamba.predict`
seen.py          how the training images lay in space
card.py          the model card
"""
