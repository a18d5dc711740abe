"""Error messages explained: every one by its literal text, nothing by accident."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_mamba.cli import main as cli
from nnunet_mamba.cli.main import VERBS
from nnunet_mamba.doctor import names
from nnunet_mamba.doctor.messages import MESSAGES, Message, explain
from nnunet_mamba.names import networks
from nnunet_mamba.names.locate import locate

EVERY_LINE = [(m, line) for m in MESSAGES for line in m.examples]
HARMLESS = """2026-01-01 10:00:00: Epoch 17
train_loss -0.8123
val_loss -0.7011
Pseudo dice [np.float32(0.91), np.float32(0.88)]
Mean Validation Dice: 0.87
INFO: Using torch.compile...
"""


@pytest.mark.parametrize(("message", "line"), EVERY_LINE, ids=lambda v: v.key if isinstance(v, Message) else "")
def test_every_literal_line_is_recognised_as_itself(message: Message, line: str) -> None:
    assert explain(f"Traceback (most recent call last):\n  File x\n{line}\n")[0] is message


OUR_OWN = {
    "fold-is-being-trained": (
        "/r/fold_0 is being trained by process 7 on n since 2026-01-31 12:00:00 (nnUNetv2_train 4 2d 0). Two",
        "/r/fold_0 is being trained by another process. Two trainings would overwrite each other's checkpoints",
        "train_m_0: another process is at it, left over: pid 5, nnUNetv2_train 4. To end it: kill -- -5; lock: /r/l",
    ),
    "disk-full": (
        "checkpoint_latest.pth: could not be written ([enforce fail at inline_container.cc:672] . unexpected pos 1)",
        "checkpoint_latest.pth: could not be written (what was written cannot be read: wrong checksum of a/data/0)",
    ),
    "checkpoint-could-run-code": ("x.pth holds an object of posix.system, and reading that could run code",),
    "checkpoint-damaged": (
        "x.pt is a web page, not a checkpoint: open its address in a browser and download the file itself",
        "x.pt is a pointer of Git LFS, not the file it stands for: run `git lfs pull` in its repository",
        "x.pt is empty: the download or copy failed; get it again",
        "x.pt is a gzip file, not a checkpoint: unpack it (tar xf or gunzip) and name the file in it",
        "x.pt is cut off after 1.2 MB: copy or download it again",
        "x.pt is a zip archive without a checkpoint of torch at its top: unpack it and name the file in it",
        "x.pt is a text file, not a checkpoint; it begins with 'hello'",
        "x.pt is damaged, or no checkpoint: copy or download it again",
        "/r/checkpoint_latest.pth cannot be read (wrong checksum of a); going on from checkpoint_previous.pth instead",
    ),
    "loss-is-nan": (
        "nnunet_mamba.trainers.sentinel.TrainingBrokenError: loss or gradient were not finite 3 times in a row",
        "the weights were not finite from the start of the training: look at the checkpoint or the pretrained weights",
    ),
    "plugin-cannot-be-loaded": (
        "nnunet_mamba cannot be loaded, nnU-Net goes on without it (RuntimeError: x); pip install --force-reinstall",
        "nnunet_mamba's trainers and planners are not known (TypeError: x); pip install --force-reinstall nnunet-mamba",
    ),
}


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in OUR_OWN.items() for text in texts])
def test_what_our_own_trainings_and_commands_say_is_explained(key: str, text: str) -> None:
    assert explain(text)[0].key == key


def test_a_healthy_log_is_explained_by_nothing() -> None:
    assert explain(HARMLESS) == []


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.key)
def test_remedies_name_what_exists(message: Message) -> None:
    verbs = re.findall(r"`nnunet-mamba ([a-z-]+)", message.remedy)
    assert set(verbs) <= set(VERBS)
    for trainer in re.findall(r"nnUNetTrainer\w+", message.remedy):
        assert locate(trainer) is not None
    for planner in re.findall(r"nnUNetPlanner\w+", message.remedy):
        assert locate(planner) is not None


def test_the_text_of_nnunet_has_not_changed() -> None:
    """Messages that nnU-Net prints are looked up in its source."""
    import nnunetv2

    root = Path(nnunetv2.__file__).parent
    source = "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in root.rglob("*.py"))
    for words in ("Could not find requested nnunet trainer", "Some background worker is 6 feet under",
                  "Some background workers are no longer alive", "Fingerprint missing for this dataset",
                  "Labels must be in consecutive order (0, 1, 2, ...)", " is not defined. ",
                  "regions_class_order must have as "):  # fmt: skip
        assert words in source, words


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["doctor", "--explain", "No module named 'causal_conv1d_cuda'"]) == 0
    text = capsys.readouterr().out
    assert "cause: mamba-ssm or causal-conv1d" in text
    assert "do: nnunet-mamba does not need it" in text
    log = tmp_path / "log.txt"
    log.write_text(
        HARMLESS
        + "torch.OutOfMemoryError: CUDA out of memory.\nRuntimeError: Some background workers are no longer alive"
    )
    assert cli.main(["doctor", "--explain", str(log), "--json"]) == 0
    assert [m["key"] for m in json.loads(capsys.readouterr().out)] == ["out-of-memory", "background-workers-dead"]
    assert cli.main(["doctor", "--explain", "something else"]) == 1
    assert "No message that we know" in capsys.readouterr().out
    assert cli.main(["doctor", "--explain", "x" * 5000]) == 1


@pytest.mark.parametrize("path", ["/nonexistent.txt", "log.txt", "~/training_log.txt", "./x/y", "results/fold_0/log"])
def test_a_path_that_is_not_there_is_no_message(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--explain", path]) == 2
    assert capsys.readouterr().err == f"nnunet-mamba doctor: --explain {path}: no such file\n"


def test_a_message_that_looks_like_a_path_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--explain", "/dev/shm/torch_123"]) == 0
    assert "--shm-size" in capsys.readouterr().out


def test_a_folder_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--explain", str(tmp_path)]) == 2
    assert "is a folder; name a log file in it" in capsys.readouterr().err
    for message in MESSAGES:
        assert cli.main(["doctor", "--explain", message.key]) == 0
        assert capsys.readouterr().out.startswith(message.examples[0])


def test_exit_codes_are_the_same_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["doctor", "--explain", "something else", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []
    assert cli.main(["doctor", "--explain", "CUDA out of memory", "--json"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(names, "_fresh", lambda: dict.fromkeys(networks.class_names(), "found"))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == sum(f["state"] == "problem" for f in report["findings"]) > 0


def test_explaining_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys; from nnunet_mamba.cli.main import main\n"
        "main(['doctor', '--explain', 'CUDA out of memory'])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
