"""What nnU-Net's commands, and ours, say to a first mistake: a wrong name, a forgotten step, a damaged file.

The more special ones first: a text is explained by the first message that it contains.
"""

from __future__ import annotations

from nnunet_mamba.doctor.message import Message

_MISSING = r"No such file or directory: '[^'\n]*"

FIRST_ERRORS = (
    Message(
        "paths-not-set",
        ("RuntimeError: nnUNet_raw is not defined. nnU-Net can only be used on data for which preprocessed files are already "
         "present on your system.",
         "nnUNet_preprocessed is not defined. nnU-Net cannot be used for preprocessing or training.",
         "nnUNet_results is not defined. nnU-Net cannot be used for training or inference.",
         "nnUNet_preprocessed=None",
         "TypeError: expected str, bytes or os.PathLike object, not NoneType",
         "the environment variable nnUNet_raw is not set; nnU-Net keeps datasets there."),
        r"nnUNet_(raw|preprocessed|results) is not (defined|set)|environment variable nnUNet_(raw|preprocessed|results)"
        r"|nnUNet_(raw|preprocessed|results)=None|expected str, bytes or os\.PathLike object, not NoneType",
        "nnU-Net keeps its data in three folders that environment variables name, and at least one of them is not set in this "
        "shell. Depending on the command nnU-Net says so, or that there is no such dataset, or that a path is None.",
        "`export nnUNet_raw=~/nnunet/raw nnUNet_preprocessed=~/nnunet/preprocessed nnUNet_results=~/nnunet/results` (in "
        "~/.bashrc, to have it in every shell), and `mkdir -p` them.",
    ),
    Message(
        "two-datasets-of-one-number",
        ("RuntimeError: More than one dataset name found for dataset id 4. Please correct that.",
         "Dataset004_A and Dataset004_B have the same number, which nnU-Net refuses"),
        r"More than one dataset name found for dataset id|have the same number, which nnU-Net refuses",
        "Two folders of nnUNet_raw, nnUNet_preprocessed and nnUNet_results begin with the same number and go on differently.",
        "`ls -d $nnUNet_raw/Dataset004_* $nnUNet_preprocessed/Dataset004_* $nnUNet_results/Dataset004_*` shows them; rename or "
        "move all but one name.",
    ),
    Message(
        "dataset-not-found",
        ("RuntimeError: Could not find a dataset with the ID 66. Make sure the requested dataset ID exists and that nnU-Net "
         "knows where raw and preprocessed data are located (see Documentation - Installation).",
         "ValueError: dataset_name_or_id must either be an integer or a valid dataset name with the pattern DatasetXXX_YYY",
         "ValueError: dataset_name_or_id was a string and did not start with 'Dataset' so we tried to convert it to a dataset ID",
         "-d 66: no Dataset066_* in /home/you/nnunet/raw; there are: 4 (Hippocampus)",
         "AssertionError: The requested dataset could not be found in nnUNet_raw"),
        r"Could not find a dataset with the ID|dataset_name_or_id (must either|was a string)|no Dataset(\d{3}_\*|\S+) in "
        r"|expected a number from 1 to 999, or a name such as|requested dataset could not be found in nnUNet_raw",
        "No folder of nnUNet_raw, nnUNet_preprocessed or nnUNet_results begins with this number: another number is meant, or the "
        "variables point to other folders than those where the dataset is.",
        "`ls $nnUNet_raw` shows the datasets and `echo $nnUNet_raw $nnUNet_preprocessed $nnUNet_results` the folders. Give the "
        "number (`-d 4`) or the whole name (`-d Dataset004_Hippocampus`). A download becomes a dataset by `nnunet-mamba convert`.",
    ),
    Message(
        "name-of-ours-misspelt",
        ("ValueError: 'nnUNetTrainerSegMama' is not known to nnU-Net or to nnunet_mamba. Did you mean nnUNetTrainerSegMamba?",
         "ValueError: nnUNetTrainerSegMamba_x: _x is not a suffix of our trainers",
         "ValueError: nnUNetTrainerSegMamba_10epoch: one training has one name, and this one is written "
         "nnUNetTrainerSegMamba_10epochs"),
        r"is not known to nnU-Net or to nnunet_mamba|is not a suffix of our trainers|the suffixes have an order"
        r"|one training has one name|a suffix stands twice",
        "The name is nearly one of ours: a letter is wrong, a suffix does not exist, or the suffixes stand in another order. Or it is "
        "another project's: U-Mamba's checkpoints for instance ask for its nnUNetTrainerUMambaEncNoAMP, which is not installed.",
        "The message says which name is meant; weights of another project: `nnunet-mamba convert-checkpoint`. `nnunet-mamba list` shows the trainers and planners, `nnunet-mamba list --trainers` "
        "the suffixes and their order.",
    ),
    Message(
        "planner-not-found",
        ("TypeError: 'NoneType' object is not callable", "RuntimeError: Could not find the planner class nnUNetPlannerFoo."),
        r"(Could not find|Unable to (find|locate)|requested).{0,40}\b(planner|nnUNetPlanner\w*|ExperimentPlanner)\b"
        r"|'NoneType' object is not callable",
        "nnU-Net knows no planner of this name (`-pl`), and calls the None that its search has returned.",
        "`nnunet-mamba list` shows ours, for instance `-pl nnUNetPlannerSegMamba`; nnU-Net's own are ExperimentPlanner (the "
        "default) and those of its residual encoder presets.",
    ),
    Message(
        "configuration-not-in-plans",
        ("RuntimeError: Requested configuration 3d_full not found in plans. Available configurations: ['2d', '3d_fullres']",
         "ValueError: The configuration 3d_lowres does not exist in the plans I have.",
         "INFO: Configuration 3d_lowres not found in plans file nnUNetPlans.json of dataset Dataset004_X. Skipping.",
         "KeyError: '3d_lowres'",
         "ValueError: configuration '3d_full' is not in plans",
         "-c 3d_full: planners make 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres"),
        r"Requested configuration \S+ not found in plans|configuration \S+ does not exist in the plans"
        r"|Configuration \S+ not found in plans|KeyError: '(2d|3d_lowres|3d_fullres|3d_cascade_fullres)'"
        r"|configuration '?\S+ is not in |-c \S+: (planners make|\S+ has) ",
        "The plans have no configuration of this name (`-c`). nnU-Net plans 3d_lowres and 3d_cascade_fullres only where images are "
        "much larger than a patch; for smaller ones 2d and 3d_fullres are all there is.",
        "Use one that the message names, nearly always `3d_fullres`. For our own ones: `nnunet-mamba plan-from-recipe`.",
    ),
    Message(
        "first-stage-of-a-cascade-missing",
        ("FileNotFoundError: [Errno 2] No such file or directory: "
         "'.../nnUNetTrainer__nnUNetPlans__3d_lowres/predicted_next_stage/3d_cascade_fullres/case_001.npz'",
         "AssertionError: The requested configuration is a cascaded network. It requires the segmentations of the previous stage"),
        r"predicted_next_stage|is a cascaded network|requires the (segmentations|predictions) of the previous stage",
        "3d_cascade_fullres takes the predictions of 3d_lowres as an input, and they are not there.",
        "Train `nnUNetv2_train DATASET 3d_lowres FOLD` first, all five folds: each predicts its validation cases for the second "
        "stage. To predict: run nnUNetv2_predict with `-c 3d_lowres`, then `-c 3d_cascade_fullres -prev_stage_predictions FOLDER`.",
    ),
    Message(
        "fold-not-trained",
        ("FileNotFoundError: [Errno 2] No such file or directory: '.../nnUNetTrainer__nnUNetPlans__3d_fullres/fold_3/"
         "checkpoint_final.pth'",
         "RuntimeError: Cannot run validation because the training is not finished yet!",
         "RuntimeError: fold 1 of model .../nnUNetTrainer__nnUNetPlans__3d_fullres is missing. Please train it!",
         "RuntimeError: Expected model output directory does not exist. You must train all requested folds of the specified model.",
         "AssertionError: not all requested folds are present; Dataset004_X 3d_fullres; requested folds: ['0', '1']"),
        _MISSING + r"checkpoint_\w+\.pth|not all requested folds are present|Cannot run validation because the training is not finished"
        r"|fold \w+ of model .* is missing|Expected model output directory does not exist"
        r"|\bfold_?\s?\w+ .{0,40}(missing|not (been )?(trained|found))",
        "A fold that is asked for has no finished training, or the checkpoint has another name. nnU-Net takes folds 0 to 4 where "
        "`-f` is left out, and `checkpoint_final.pth` where `-chk` is; that file comes at the end of a training.",
        "`ls $nnUNet_results/DATASET/*/fold_*` shows what is there. Name the folds that are trained, `-f 0`; use "
        "`-chk checkpoint_best.pth` for a training that has not ended; or go on with it: the same nnUNetv2_train and `--c`.",
    ),
    Message(
        "fold-not-in-split",
        ("INFO: You requested fold 7 for training but splits contain only 5 folds. I am now creating a random (but seeded) 80:20 "
         "split!",
         "-f 7: the dataset is split into 5 folds; -f 0 1 2 3 4"),
        r"You requested fold \d+ for training but splits contain only|the dataset is split into \d+ folds",
        "The split has no such fold; nnU-Net trains on a random split instead, which is part of no cross-validation.",
        "Folds are counted from 0: `nnUNetv2_train DATASET 3d_fullres 4` is the last of five; `all` trains on every case.",
    ),
    Message(
        "case-not-preprocessed",
        ("FileNotFoundError: No such file or directory: .../nnUNetPlans_3d_fullres/case_999.b2nd",),
        r"No such file or directory:? '?[^'\n]*\w*Plans_\w+/[^/'\n]+\.(b2nd|pkl|npz|npy)",
        "splits_final.json names a case that is not among the preprocessed ones: it was edited, or cases were added or renamed after "
        "preprocessing.",
        "`nnUNetv2_preprocess -d DATASET -plans_name PLANS -c CONFIGURATION` makes what is missing; or correct the names in "
        "`nnUNet_preprocessed/DATASET/splits_final.json` (deleted, it is made anew).",
    ),
    Message(
        "model-not-found",
        ("FileNotFoundError: [Errno 2] No such file or directory: '.../nnUNet_results/Dataset004_X/"
         "nnUNetTrainer__nnUNetPlans__2d/dataset.json'",
         "RuntimeError: Trained model {'plans': 'nnUNetPlans'} does not have an output folder. Expected: ...",
         "RuntimeError: Dataset004_X: The output folder of plans nnUNetPlans configuration 2d is missing. Please train the model",
         "RuntimeError: Dataset004_X is missing the trained model of configuration 3d_fullres",
         "no trained model there. In Dataset004_X: nnUNetTrainer__nnUNetPlans__3d_fullres"),
        _MISSING + r"(__[^/'\n]*|results/[^/'\n]*)/(dataset|plans)\.json|does not have an output folder"
        r"|The output folder of plans|is missing the trained model|no trained model there",
        "nnU-Net keeps a model in `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`, and there is none of this name: `-tr`, "
        "`-p` or `-c` are not those of the training, or it has not begun.",
        "`ls $nnUNet_results/DATASET` shows the models; give the same `-tr`, `-p` and `-c` as in the training, suffixes included. "
        "nnUNetv2_predict_from_modelfolder takes such a folder itself: `-m .../TRAINER__PLANS__CONFIGURATION`.",
    ),
    Message(
        "not-preprocessed",
        ("FileNotFoundError: [Errno 2] No such file or directory: '.../nnUNet_preprocessed/Dataset004_X/nnUNetPlans_3d_fullres'",
         "RuntimeError: Preprocessed data folder for configuration 3d_fullres of plans identifier nnUNetPlans does not exist."),
        _MISSING + r"\w*Plans_\w+'|Preprocessed data folder for configuration|run preprocessing for that task first",
        "The dataset is planned but not preprocessed for this configuration and these plans.",
        "`nnUNetv2_preprocess -d DATASET -plans_name nnUNetPlans -c 3d_fullres -np 4`; `-plans_name` and `-c` as in the training.",
    ),
    Message(
        "labels-not-consecutive",
        ("AssertionError: Labels must be in consecutive order (0, 1, 2, ...). The labels [4] do not satisfy this restriction",
         "Error: Unexpected labels found in file BraTS_001.nii.gz",
         "RuntimeError: Background label not declared (remember that this should be label 0!)"),
        r"Labels must be in consecutive order|Unexpected labels found in file|contained unexpected labels|are not consecutive: \[|Background label (must|not)",
        "Label values must be 0, 1, 2, ... without a gap, the same in the files and in dataset.json. BraTS until 2021 uses 0, 1, "
        "2, 4; masks of tools use 0 and 255.",
        "Convert: `nnunet-mamba convert brats -i DOWNLOAD -d 521`, or describe the dataset with a `label_map` for "
        "`nnunet-mamba convert generic` (`nnunet-mamba convert generic --help`).",
    ),
    Message(
        "images-do-not-match-labels",
        ("Error: Shape mismatch between segmentation and corresponding images.",
         "Error: Spacing mismatch between segmentation and corresponding images.",
         "Error: Unexpected number of modalities.",
         "AssertionError: Images contains NaN values. grrrr.... :-(",
         "AssertionError: Shape mismatch between image and segmentation. Please fix your dataset"),
        r"(Shape|Spacing) mismatch between (segmentation|image)|Unexpected number of modalities"
        r"|(Images|Segmentation) contains NaN|Some images have errors",
        "An image and its label (or two channels) have another size, another spacing or another number of channels, or hold values "
        "that are not numbers. The lines above name the files.",
        "Mend these files, or convert the dataset again with `nnunet-mamba convert`, which checks every case and says what it "
        "repairs (`--trust-array`: equal sizes are the same grid, whatever the headers say; `--nan-to-zero`).",
    ),
    Message(
        "cases-not-found",
        ("AssertionError: Did not find the expected number of training cases (6). Found 1 instead.",
         "AssertionError: not all training cases have a label file in labelsTr. Fix that.",
         "FileNotFoundError: Some expected files were missing. Make sure you are properly referencing them",
         "There are 0 cases in the source folder",
         "RuntimeError: Unable to determine a reader for file ending .dcm and file None (file None means no file provided)."),
        r"Did not find the expected number of training cases|not all training cases have a label file"
        r"|Some expected files were missing|There are 0 cases in the source folder"
        r"|Unable to determine a reader for file ending|fingerprint_extractor\.py[\s\S]{0,400}(IndexError: list index|StopIteration)"
        r"|\['images'\]\[0\]\)[\s\S]{0,200}(IndexError: list index|StopIteration)",
        "nnU-Net does not find the images that dataset.json promises. Their names must be CASE_0000.nii.gz, CASE_0001.nii.gz, ... "
        "(one number per channel, also where there is one channel only), labels CASE.nii.gz, and `file_ending` in dataset.json "
        "must be theirs; `numTraining` is the number of cases.",
        "Compare `ls $nnUNet_raw/DATASET/imagesTr $nnUNet_raw/DATASET/labelsTr` with dataset.json. To add the number: `for f in "
        "*.nii.gz; do mv $f ${f%.nii.gz}_0000.nii.gz; done` in the folder of images.",
    ),
    Message(
        "channel-numbers-missing",
        ("IndexError: list index out of range", "IndexError: tuple index out of range"),
        r"IndexError: (list|tuple) index out of range",
        "Most often images without the channel's number, or of another number of channels: nnU-Net expects CASE_0000.nii.gz, "
        "CASE_0001.nii.gz, ... in folders of images, also where there is one channel only, as many as dataset.json has channels, and "
        "finds no case in CASE.nii.gz.",
        "`for f in *.nii.gz; do mv $f ${f%.nii.gz}_0000.nii.gz; done` in the folder of images; channels and `file_ending` as in the "
        "model's dataset.json.",
    ),
    Message(
        "wrong-number-of-channels",
        ("RuntimeError: Given groups=1, weight of size [32, 1, 3, 3, 3], expected input[1, 2, 48, 48, 48] to have 1 channels, but "
         "got 2 channels instead",),
        r"to have \d+ channels, but got \d+ channels|takes \d+ channels, dataset\.json names|number of (input )?(channels|modalities)",
        "The images have another number of channels than those the network was trained with.",
        "Every case needs CASE_0000, CASE_0001, ... exactly as in the model's dataset.json (`channel_names`), in that order.",
    ),
    Message(
        "raw-dataset-incomplete",
        ("FileNotFoundError: [Errno 2] No such file or directory: '.../nnUNet_raw/Dataset004_X/dataset.json'",
         "AssertionError: There needs to be a imagesTr subfolder in folder",
         "AssertionError: not all required keys are present in dataset.json.",
         "KeyError: 'labels'"),
        _MISSING + r"/Dataset\d{3}_[^/'\n]*/?(dataset\.json|imagesTr|labelsTr)?'|There needs to be a (dataset\.json|imagesTr|labelsTr)"
        r"|not all required keys are present in dataset\.json|KeyError: '(labels|channel_names|modality|numTraining|file_ending)'",
        "A dataset in nnUNet_raw needs imagesTr, labelsTr and dataset.json, and that file needs channel_names, labels, numTraining "
        "and file_ending.",
        "`nnunet-mamba convert generic --help` shows how to describe a folder; it writes all of them. A dataset.json: `{\"channel_names\": "
        "{\"0\": \"CT\"}, \"labels\": {\"background\": 0, \"tumour\": 1}, \"numTraining\": 20, \"file_ending\": \".nii.gz\"}`.",
    ),
    Message(
        "msd-folder",
        ("AssertionError: labelsTr subfolder missing in source folder",
         "AssertionError: Target dataset id 4 is already taken, please consider changing it using overwrite_id."),
        r"(labelsTr|imagesTs|imagesTr) subfolder missing in source folder|dataset\.json missing in source_folder"
        r"|Target dataset id \d+ is already taken|Target dataset name \S+ already exists|int\(task\[4:\]\)",
        "nnUNetv2_convert_MSD_dataset wants one unpacked task of the Decathlon, named TaskXX_Name, with imagesTr, labelsTr, imagesTs "
        "and dataset.json, and a number that no other dataset has.",
        "`nnunet-mamba convert msd -i Task04_Hippocampus` finds the folders, checks the files and takes another number with `-d 104`.",
    ),
    Message(
        "json-damaged",
        ("json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
         "dataset.json: not JSON: Expecting value: line 1 column 1 (char 0)"),
        r"JSONDecodeError|: not JSON: ",
        "dataset.json, a plans file or splits_final.json is not JSON: single quotes, a comma too many, a comment, or half a file.",
        "`python -m json.tool FILE` shows the place. Plans: `nnUNetv2_plan_experiment -d DATASET -pl PLANNER` writes them again.",
    ),
    Message(
        "preprocessed-file-damaged",
        ("RuntimeError: blosc2_schunk_open_offset('.../nnUNetPlans_3d_fullres/case_001.b2nd', 0) returned NULL",),
        r"blosc2_schunk_open\w*\(.*returned NULL|\.b2nd'?.*(corrupt|damaged|invalid)",
        "A preprocessed case is damaged or was written half, by a full disk or a killed preprocessing.",
        "Delete the file the message names and its .pkl, and preprocess again: `nnUNetv2_preprocess -d DATASET -plans_name PLANS -c "
        "CONFIGURATION`.",
    ),
    Message(
        "weights-do-not-fit",
        ("RuntimeError: Error(s) in loading state_dict for PlainConvUNet:",
         "size mismatch for encoder.stages.0.0.convs.0.conv.weight: copying a param with shape torch.Size([4, 1, 3, 3, 3]) from "
         "checkpoint, the shape in current model is torch.Size([8, 1, 3, 3, 3]).",
         "ValueError: checkpoint_final.pth does not fit this network: encoder.stages.0.0.convs.0.conv.weight is missing",
         "AssertionError: Key encoder.stages.0.0.convs.0.conv.weight is missing in the pretrained model weights."),
        r"in loading state_dict|size mismatch for \S+: copying a param|does not fit this network|missing in the pretrained model"
        r"|(Missing|Unexpected) key\(s\) in state_dict|does not have the same shape|shape of the parameters of key",
        "The weights are of another network: another trainer, or other plans (widths, stages, kernels) than those of the training.",
        "Use the `-tr`, `-p` and `-c` of the training, and its plans.json unchanged. `-pretrained_weights` needs a plan with the same "
        "stages and widths: `nnUNetv2_move_plans_between_datasets` copies one.",
    ),
    Message(
        "checkpoint-damaged",
        ("RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
         "_pickle.UnpicklingError: invalid load key, '<'.",
         "EOFError: Ran out of input",
         "ValueError: checkpoint_final.pth cannot be read (cut off), and no other checkpoint is whole.",
         "checkpoint_latest.pth cannot be read (cut off); going on from checkpoint_previous.pth instead",
         "segmamba.pt is a pointer of Git LFS, not the file it stands for"),
        r"cannot be read \(.*(no other checkpoint is whole|going on from)|PyTorchFileReader[\s\S]{0,400}Invalid argument|PytorchStreamReader failed|failed finding central directory|invalid load key|Ran out of input|pickle data was truncated"
        r"|is a web page, not|is a pointer of Git LFS|is a gzip file, not a checkpoint|is a text file, not a checkpoint"
        r"|is empty: the download|is cut off after [\d.]+ MB|is a zip archive without a checkpoint|is damaged, or no checkpoint"
        r"|checkpoint.{0,80}(damaged|cut off|no checkpoint)",
        "A checkpoint is not a whole checkpoint: a copy or download that was cut off, a web page or an LFS pointer saved under its name, "
        "or a training that was killed while saving.",
        "`head -c 100 FILE` shows text where a download failed: download again. For a training of your own: `checkpoint_best.pth` (`-chk "
        "checkpoint_best.pth`), or go on with `--c`; our trainers keep the previous checkpoint until the new one is whole.",
    ),
    Message(
        "zip-damaged",
        ("zipfile.BadZipFile: File is not a zip file",),
        r"BadZipFile|is not a zip file",
        "The file is not a zip archive: a web page saved under its name, or half a download.",
        "`head -c 100 FILE` shows text where a download failed. nnUNetv2_export_model_to_zip makes what "
        "nnUNetv2_install_pretrained_model_from_zip reads.",
    ),
    Message(
        "image-damaged",
        ("RuntimeError: Exception thrown in SimpleITK ImageFileReader_Execute: Unable to determine ImageIO reader for \"case.nii.gz\"",
         "itk::ERROR: ITK ERROR: NiftiImageIO: error reading file"),
        r"ImageFileReader|itk::ERROR|Unable to determine ImageIO reader|ImageFileError|Compressed file ended before"
        r"|Not a gzipped file|invalid (stored block|distance|code lengths)|Error -\d while decompressing",
        "An image cannot be read: it is cut off, is something else (a web page, a text) under its name, or is missing.",
        "The message names the file: download or copy it again. `nnunet-mamba convert` checks all files of a download before it writes.",
    ),
    Message(
        "disk-full",
        ("OSError: [Errno 28] No space left on device",
         "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22",
         "RuntimeError: PytorchStreamWriter failed writing file data/1: file write failed",
         "RuntimeError: Error while creating the NDArray",
         "OSError: checkpoint_latest.pth: could not be written (what was written cannot be read: wrong checksum of data/1). 0 MB are free"),
        r"No space left on device(?!: '/dev/shm)|Disk quota exceeded|inline_container\.cc.*unexpected pos|PytorchStreamWriter failed"
        r"|disk is full|is the disk full|: could not be written \(|Error while creating the NDArray|Errno 122",
        "The disk, or your quota of it, is full.",
        "`df -h $nnUNet_raw $nnUNet_preprocessed $nnUNet_results` shows how full; preprocessed data of configurations that are not "
        "trained may go. Then the same training with `--c`.",
    ),
    Message(
        "cannot-write",
        ("PermissionError: [Errno 13] Permission denied: '/data/nnunet/results/Dataset004_X'",
         "OSError: [Errno 30] Read-only file system: '/data/nnunet'",
         "NotADirectoryError: [Errno 20] Not a directory: '/home/you/nnunet/results/Dataset004_X'"),
        r"PermissionError|Read-only file system|NotADirectoryError|FileExistsError|is a file, not a folder|is a file; expected a folder",
        "A folder cannot be written to: it belongs to somebody else, is mounted read-only, or a file has its name.",
        "`ls -ld $nnUNet_raw $nnUNet_preprocessed $nnUNet_results`; choose folders of your own with `export nnUNet_results=...`.",
    ),
    Message(
        "device",
        ("AssertionError: -device must be either cpu, mps or cuda. Other devices are not tested/supported. Got: gpu.",
         "AssertionError: DDP training (triggered by num_gpus > 1) is only implemented for cuda devices. Your device: cpu"),
        r"-device must be either cpu|only implemented for cuda devices|argument -device: invalid choice",
        "`-device` is cuda, cpu or mps, without a number; several GPUs (`-num_gpus`) work with cuda only.",
        "Choose a GPU by `CUDA_VISIBLE_DEVICES=1 nnUNetv2_train ... -device cuda`.",
    ),
    Message(
        "probabilities-missing",
        ("RuntimeError: No .npz files found in folder .../fold_0/validation. Rerun your validation with the --npz flag.",
         "AssertionError: Not all folders contain the same files for ensembling. Please only provide folders that contain the "
         "predictions",
         "AssertionError: At least one file must be given in list_of_files"),
        r"No \.npz files found in folder|Not all folders contain the same files for ensembling|at least one file must be given"
        r"|There were missing files, see print|" + _MISSING + r"\.npz'",
        "Ensembles are made of probabilities, and they are written only where they are asked for.",
        "`nnUNetv2_train ... --val --npz` writes those of a finished fold; `nnUNetv2_predict ... --save_probabilities` those of new "
        "cases. Without ensembles: `nnUNetv2_find_best_configuration ... --disable_ensembling`.",
    ),
    Message(
        "predictions-missing",
        ("AssertionError: Not all files in folder_ref exist in folder_pred",),
        r"Not all files in folder_ref exist in folder_pred",
        "There are references without a prediction of the same name.",
        "`nnUNetv2_evaluate_folder ... --chill` leaves them out; `nnunet-mamba evaluate -ref DIR -pred DIR` names them.",
    ),
    Message(
        "prediction-of-another-size",
        ("ValueError: operands could not be broadcast together with shapes (1,35,51,35) (1,34,51,35)",),
        r"operands could not be broadcast together with shapes",
        "A prediction and its reference have another size: one of them was cropped, resampled, or belongs to another case.",
        "`nnunet-mamba evaluate -ref DIR -pred DIR` names the case. Predict the images as they are in imagesTs; nnU-Net brings its "
        "predictions back to their size.",
    ),
    Message(
        "folder-of-predictions",
        ("FileNotFoundError: [Errno 2] No such file or directory: '/home/you/predictions/dataset.json'",
         "FileNotFoundError: [Errno 2] No such file or directory: '/home/you/nnunet/results/Dataset004_X/"
         "nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/validation/dataset.json'"),
        _MISSING + r"/(validation/)?(dataset|plans)\.json'",
        "The command reads dataset.json or plans.json where it was told to, most often next to predictions, where nnUNetv2_predict "
        "leaves them. The folder is misspelt, or is one of a fold's validation, which has none.",
        "Give the folder of nnUNetv2_predict; or copy both files from the model's folder (`TRAINER__PLANS__CONFIGURATION`) into it; or "
        "name them where the command has an option for it (`-djfile`, `-plans_json`).",
    ),
    Message(
        "postprocessing-files",
        ("RuntimeError: Expected plans file missing: .../plans.json. The plans files should have been created while running "
         "nnUNetv2_predict. Sadge.",
         "FileNotFoundError: [Errno 2] No such file or directory: '.../postprocessing.pkl'"),
        r"Expected (plans|dataset\.json) ?file (is )?missing|Expected dataset\.json.*missing|" + _MISSING + r"postprocessing\.pkl",
        "nnUNetv2_apply_postprocessing needs the .pkl that nnUNetv2_find_best_configuration writes, and plans.json and dataset.json, "
        "which nnUNetv2_predict leaves next to its predictions.",
        "Copy the line of `inference_instructions.txt` in `nnUNet_results/DATASET`; or name the files: `-pp_pkl_file FILE -plans_json "
        "MODEL/plans.json -dataset_json MODEL/dataset.json`.",
    ),
    Message(
        "no-network",
        ("requests.exceptions.ConnectionError: HTTPSConnectionPool(host='zenodo.org', port=443): Max retries exceeded with url",
         "urllib.error.URLError: <urlopen error [Errno -3] Temporary failure in name resolution>"),
        r"ConnectionError|URLError|Max retries exceeded|Temporary failure in name resolution|Connection refused|MissingSchema",
        "The address cannot be reached: no network on this machine, a proxy, or another address.",
        "Download on a machine with network and copy the file: `nnUNetv2_install_pretrained_model_from_zip FILE.zip`.",
    ),
    Message(
        "wrong-argument",
        ("nnUNetv2_train: error: the following arguments are required: fold",
         "nnUNetv2_predict: error: unrecognized arguments: --fold 0",
         "ValueError: invalid literal for int() with base 10: 'first'",
         "AssertionError: Cannot set --c and --val flag at the same time. Dummy."),
        r"error: the following arguments are required|error: unrecognized arguments|error: argument |invalid literal for int\(\) with base"
        r"|Cannot set --c and --val|Cannot both continue a training AND load pretrained|error: invalid choice",
        "An argument is missing, unknown, or a word where a number is expected.",
        "`nnUNetv2_train DATASET CONFIGURATION FOLD` for instance takes a number or name, 3d_fullres, and 0 to 4 or all, in this order; "
        "`-h` after any command of nnU-Net shows its arguments, `--help` after one of ours.",
    ),
)  # fmt: skip

FILE_NOT_FOUND = Message(
    "file-not-found",
    ("FileNotFoundError: [Errno 2] No such file or directory: '/home/you/imagesTest'", "nowhere.json: no such file"),
    r"FileNotFoundError: .*No such file or directory|: no such (file|folder)|No such file or directory:",
    "A path that was given, or that nnU-Net makes of the names that were given, does not exist. The message names it.",
    "`ls` its folder: a misspelt path, a name of another dataset or model, or a step before this one that has not been done.",
)
"""What remains when nothing says more"""

NOTHING_TO_CONTINUE = Message(
    "nothing-to-continue",
    (
        "WARNING: Cannot continue training because there seems to be no checkpoint available to continue from. Starting a new "
        "training...",
    ),
    r"no checkpoint available to continue from",
    "`--c` was given and the fold has no checkpoint: nnU-Net begins anew. The first checkpoint comes after some epochs, and the "
    "folder is that of this trainer, these plans and this configuration only.",
    "If there should be one: the same `-tr`, `-p` and configuration as before, suffixes included, and the same nnUNet_results.",
)
"""Printed by every first training of `nnunet-mamba crossval`, so it explains only what nothing else does"""
