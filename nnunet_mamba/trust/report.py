"""What came out, to be read: a table of the measures, curves, one line per case, as a page and as Markdown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_mamba.study.comparison.report import Picture, Report, Section, picture, write_html, write_markdown
from nnunet_mamba.study.comparison.tables import Table
from nnunet_mamba.trust.looking import ENOUGH
from nnunet_mamba.trust.measures import TITLES, doubt
from nnunet_mamba.trust.outcome import MODELS, ONE, PASSES, Outcome
from nnunet_mamba.trust.ranking import risk_coverage
from nnunet_mamba.trust.temperature import BINS, Calibration
from nnunet_mamba.whole_files import write_text

TABLE, PAGE, MARKDOWN = "trust.csv", "trust.html", "trust.md"
PANEL = (4.2, 3.6)
DEFINITIONS = (
    ("pairwise Dice", "Dice between every two members, mean over pairs and labels; 1 where both are empty"),
    ("entropy", "of the mean probabilities, over its largest possible value; mean over the predicted foreground and "
     "the two voxels around it"),
    ("volume spread", "standard deviation of the members' volumes over their mean, mean over labels"),
    ("AURC", "area under risk over coverage: mean of 1 - Dice of the surest cases, averaged over how many are taken; "
     "small is good"),
    ("rank correlation", "Spearman's, of sureness with Dice: 1 perfect, 0 chance"),
    ("caught", "failures among the cases looked at, each judged by a limit chosen without its fold"),
)  # fmt: skip


def table(outcome: Outcome) -> pd.DataFrame:
    """A row per case; `look`: by the limit that was chosen without its fold"""
    rows = [
        {"case": c.name, "fold": c.fold, "Dice": c.dice, "failure": c.dice < outcome.below, **c.measures.values(),
         "look": bool(look)}
        for c, look in zip(outcome.cases, outcome.looked, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def write(outcome: Outcome, folder: Path) -> None:
    """trust.csv, trust.html, trust.md and pictures. Raises ValueError if one cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TABLE, table(outcome).to_csv(index=False))
    report = _report(outcome)
    try:
        write_html(report, folder / PAGE)
        write_markdown(report, folder / MARKDOWN)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror or error}") from None


def lines(outcome: Outcome) -> list[str]:
    """The gist for the screen"""
    dice = outcome.dice
    said = [
        f"{len(dice)} validation cases, mean Dice {dice.mean():.4f}; members: {_members(outcome)}",
        f"failures: Dice below {outcome.below:.4f}, {int((dice < outcome.below).sum())} cases",
        "",
        f"{'measure':<15}{'AURC':<27}{'(best, chance)':<18}{'rank correlation':<27}",
    ]
    for name, m in outcome.measures.items():
        r = m.ranking
        between = f"({r.best:.3f}, {r.chance:.3f})"
        said.append(
            f"{TITLES[name]:<15}{r.aurc!s:<27}{between:<18}{r.correlation!s:<27}{_verdict(outcome, name)}".rstrip()
        )
    said += ["", f"look at a case: {_rule(outcome)}", _catches(outcome)]
    if outcome.catch.failures:
        share = outcome.catch.looked / outcome.catch.cases
        said.append(f"as many cases chosen at random would catch {share:.0%}")
    if 0 < outcome.catch.failures < ENOUGH:
        said.append("So few failures say little about the next ones.")
    c = outcome.calibration
    if c is None:
        said.append("no voxel of foreground, no temperature")
    else:
        said.append(_calibrated(c))
    return said


def _members(outcome: Outcome) -> str:
    count = outcome.cases[0].members
    return {
        PASSES: f"{count} mirrored passes of the network that did not see the case",
        MODELS: f"{count} models that did not see the case",
        ONE: "one network without mirroring, so that only its entropy can be had",
    }[outcome.members]


def _catches(outcome: Outcome) -> str:
    """Of the limit; told also where it is not used, which it explains"""
    if not outcome.catch.failures:
        return str(outcome.catch)
    what = "that catches" if outcome.evidence else "a limit all the same would have caught"
    return f"{what}, on cases held out, {outcome.catch}"


def _verdict(outcome: Outcome, name: str) -> str:
    if not outcome.measures[name].ranking.beats_chance:
        return "no evidence that it ranks better than chance"
    return "chosen" if name == outcome.chosen else ""


def _rule(outcome: Outcome) -> str:
    limit = outcome.measures[outcome.chosen].limit
    if limit is None:
        return "no limit, since no case failed"
    if not outcome.evidence:
        return (
            "no advice, since the best measure ranked no better than chance (other seeds or trainers may disagree more)"
        )
    sign = "at most" if doubt(outcome.chosen, 1) < 0 else "at least"
    return f"{TITLES[outcome.chosen]} {sign} {limit:.4f}, chosen to catch {outcome.share:.0%} of these failures"


def _calibrated(c: Calibration) -> str:
    certain = "" if c.is_certain else "; no evidence that it helps"
    return (
        f"temperature {c.temperature:.3f}; calibration error of cases held out {c.before:.4f} before, {c.after:.4f} "
        f"after (gain {c.gain:+.4f}, 95% interval {c.low:+.4f} to {c.high:+.4f}{certain})"
    )


def _report(outcome: Outcome) -> Report:
    measures = Table(
        "Measures", f"Members: {_members(outcome)}. A failure is a Dice below {outcome.below:.4f}.",
        ("measure", "AURC", "above the best", "best", "chance", "rank correlation", "limit",
         "caught of cases held out", ""),
        tuple(
            (TITLES[n], str(m.ranking.aurc), str(m.ranking.excess), f"{m.ranking.best:.3f}", f"{m.ranking.chance:.3f}",
             str(m.ranking.correlation), "-" if m.limit is None else f"{m.limit:.4f}", str(m.catch),
             _verdict(outcome, n))
            for n, m in outcome.measures.items()
        ),
    )  # fmt: skip
    order = np.argsort([doubt(outcome.chosen, c.measures.values()[outcome.chosen]) for c in outcome.cases])[::-1]
    names = list(outcome.measures)
    cases = Table(
        "Cases", "The most doubted first. Look: by a limit chosen without the case's fold.",
        ("case", "fold", *(TITLES[n] for n in names), "look", "Dice", "failure"),
        tuple(
            (c.name, c.fold, *(f"{c.measures.values()[n]:.4f}" for n in names), "look" if outcome.looked[i] else "",
             f"{c.dice:.4f}", "failure" if c.dice < outcome.below else "")
            for i, c in ((int(i), outcome.cases[int(i)]) for i in order)
        ),
    )  # fmt: skip
    gist = (
        f"Models: {', '.join(outcome.models)}; folds {', '.join(outcome.folds)}.",
        f"Look at a case: {_rule(outcome)}; {_catches(outcome)}.",
    )
    calibrated = () if outcome.calibration is None else (_calibrated(outcome.calibration),)
    sections = (
        Section("Measures", (measures,), pictures(outcome)),
        Section("Cases", (cases,)),
    )
    return Report("How far to trust a prediction", (*gist, *calibrated), sections, DEFINITIONS)


def pictures(outcome: Outcome) -> tuple[Picture, ...]:
    """Risk over coverage, each measure against Dice, and calibration where there is a temperature"""
    found = [
        picture(
            "risk_coverage", "Mean of 1 - Dice of the surest cases, over the share of cases taken", _curves(outcome)
        ),
        picture("measures", "Each measure against Dice, a point per case; the line is the limit", _points(outcome)),
    ]
    if outcome.calibration is not None:
        found.append(
            picture(
                "calibration", "Share of right voxels over the network's confidence", _reliability(outcome.calibration)
            )
        )
    return tuple(found)


def _curves(outcome: Outcome) -> Figure:
    figure, (ax,) = _panels(1)
    risk = 1 - outcome.dice
    for name in outcome.measures:
        doubts = np.array([doubt(name, c.measures.values()[name]) for c in outcome.cases])
        ax.plot(*risk_coverage(doubts, risk), label=TITLES[name])
    ax.plot(*risk_coverage(risk, risk), color="black", lw=1, ls="dotted", label="sorted by Dice: the best possible")
    ax.axhline(risk.mean(), color="0.5", lw=1, ls="--", label="at random")
    ax.set_xlabel("coverage: share of cases, the surest first")
    ax.set_ylabel("risk: their mean 1 - Dice")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=7)
    return figure


def _points(outcome: Outcome) -> Figure:
    figure, axes = _panels(len(outcome.measures))
    failed = outcome.dice < outcome.below
    for ax, (name, m) in zip(axes, outcome.measures.items(), strict=True):
        values = np.array([c.measures.values()[name] for c in outcome.cases])
        for which, color, label in ((~failed, "tab:blue", "case"), (failed, "tab:red", "failure")):
            ax.plot(values[which], outcome.dice[which], ".", color=color, label=label)
        if m.limit is not None:
            ax.axvline(m.limit, color="0.4", lw=1)
        if doubt(name, 1) < 0:
            ax.invert_xaxis()  # doubt grows to the right, whatever the measure
        ax.set_xlabel(f"{TITLES[name]}, in more doubt to the right")
        ax.set_ylabel("Dice")
    axes[0].legend(fontsize=7)
    return figure


def _reliability(c: Calibration) -> Figure:
    figure, (ax,) = _panels(1)
    ax.plot([0, 1], [0, 1], color="0.7", lw=1)
    for bins, label in ((c.bins_before, f"as predicted, error {c.before:.3f}"),
                        (c.bins_after, f"with the temperature, error {c.after:.3f}")):  # fmt: skip
        voxels, confidence, right = bins[:, bins[0] >= voxels_of_a_point(bins)]
        ax.plot(confidence / voxels, right / voxels, ".-", label=label)
    ax.set_xlabel("confidence")
    ax.set_ylabel("share of right voxels")
    ax.legend(fontsize=7)
    return figure


def voxels_of_a_point(bins: np.ndarray) -> float:
    """With fewer, a bin is not drawn: a thousandth of what a bin has on average, one at least"""
    return max(1.0, float(bins[0].sum()) / BINS / 1000)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PANEL[0] * count, PANEL[1]), layout="constrained", facecolor="white")
    return figure, list(np.atleast_1d(figure.subplots(1, count)).ravel())
