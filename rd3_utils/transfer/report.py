"""Transfer for people: the table in the terminal, and the section of a student's card. Accuracies in percent."""

from collections.abc import Sequence
from pathlib import Path

from rd3_utils.scoring import report as reports
from rd3_utils.scoring.results import Results
from rd3_utils.scoring.runs import Run
from rd3_utils.text import escape, listed, table
from rd3_utils.transfer import networks
from rd3_utils.transfer import records as transfer

TITLES = {
    "nearest_centre": "nearest class centre",
    "nearest_neighbours": "{neighbours}-NN",
    "linear_probe": "linear probe",
}
CLASSIFIERS_SAID = (
    "No network is fine-tuned: features are what its last layer reads. Nearest class centre and k-NN compare them at length 1; "
    "the linear probe is a logistic regression on standardised features whose penalty was chosen on held-out train images. "
    "Gains are in points of the mean."
)


def say_transfer(folder: Path, report: dict, groups: Sequence[dict]) -> None:
    """Print what was measured, the table, what to know of it, and where the files lie."""
    print(f"\n{intro(report, groups)}")
    table = rows(report, groups)
    widths = [max(map(len, column)) for column in zip(*table)]
    for row in table:
        print("  " + "  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths))))
    for note in report_notes(report, groups):
        print(note)
    for group in groups:
        if group["kind"] == "student" and group["arm"] != "full-hard" and not group["over_random"]:
            arms = f"{group['arm']},random-{networks.counterpart(group)}"
            print(f"no random-images student to compare with: add --arms {arms} --keep-weights all to the command that trained "
                  f"{group_label(group)}")  # fmt: skip
    print(f"files  {folder} (report.json, and one record per network)\n"
          "on the card: give the command that trained the student again, what is there is kept")  # fmt: skip


def section(runs: Sequence[Run], root: Path | str) -> list[str]:
    """The card's part on transfer of the networks of `runs`: of every target that has records under the results `root`."""
    folders = Results(root).transfer_folders()
    names = {networks.name_of(networks.network_identity(run)): run.top1 for run in runs} if folders else {}
    parts = []
    for folder in folders:
        records = transfer.records_of(folder)
        mine = {transfer.name_in_report(r) for r in records if r["name"] in names and names[r["name"]] == r["network"]["top1"]}
        if mine:
            report = transfer.records_report(records)
            groups = transfer.chosen(report, mine)
            parts += [escape(intro(report, groups)), table(rows(report, groups))]
            notes = report_notes(report, groups)
            parts += ["\n".join(f"- {escape(note)}" for note in notes)] if notes else []
    return ["## Transfer", *parts, escape(CLASSIFIERS_SAID)] if parts else []


def intro(report: dict, groups: Sequence[dict]) -> str:
    """One sentence: what was carried where, and how many images took part."""
    to = report["target"]
    sizes = {group["resized_to"] for group in groups if group["resized_to"]}
    resized = f", resized from {to['size']} to {listed(sorted(sizes))} px ({transfer.RESIZE})" if sizes else ""
    train, test = to["train"], to["test"]["images"]
    per_class = f"{train['ipc']} per class, " if train["ipc"] else ""
    return (
        f"Frozen features on {to['title']}: classifiers of {train['images']} train images ({per_class}{train['name']}), top-1 "
        f"in percent (mean and standard deviation over n networks) on the whole test split of {test} images{resized}."
    )


def rows(report: dict, groups: Sequence[dict]) -> list[list[str]]:
    """Header, one row per group, and under it what its mean gains."""
    titles = [title.format(**report["settings"]) for title in TITLES.values()]
    table = [["network", "n", *titles]]
    for group in groups:
        cells = [mean_and_spread(group["top1"][name]) for name in TITLES]
        table.append([group_label(group), str(group["top1"]["linear_probe"]["n"]), *cells])
        for over in ("random", "untrained"):
            if gains := group[f"over_{over}"]:
                table.append([f"  gain over {over}", "", *(f"{100 * gains[name]:+.2f}" for name in TITLES)])
    return table


def group_label(group: dict) -> str:
    """What a group is, in a few words."""
    if group["kind"] == "untrained":
        return f"{group['student']} of {group['benchmark']}, untrained"
    images = group["images"][0] if len(group["images"]) == 1 else f"{len(group['images'])} draws of random images"
    custom = " (custom)" if group["protocol"]["custom"] else ""
    precision = "" if group["precision"] == "fp32" else f", {group['precision']}"
    protocol = f"{group['protocol']['name']}{custom}{precision}"
    return f"{group['student']} of {group['benchmark']}, {group['arm']} on {images}, {protocol}"


def mean_and_spread(summary: dict) -> str:
    """Mean, and the standard deviation where there is one."""
    mean = reports.percent(summary["mean"])
    return mean if summary["std"] is None else f"{mean} +- {reports.percent(summary['std'])}"


def report_notes(report: dict, groups: Sequence[dict]) -> list[str]:
    """What must be known of the numbers."""
    notes, probes_of = [], {True: "the linear probe of", False: "the linear probes of"}
    late = [group_label(group) for group in groups if not group["probe_converged"]]
    if late:
        notes.append(f"Not converged after {report['settings']['steps']} steps: {probes_of[len(late) == 1]} {', '.join(late)}; "
                     "their accuracy may still move.")  # fmt: skip
    edge = [group_label(group) for group in groups if group["probe_at_edge_of_grid"]]
    if edge:
        notes.append(f"The best penalty lies at the edge of the grid for {probes_of[len(edge) == 1]} {', '.join(edge)}.")
    if any(group["own_benchmark"] for group in groups):
        notes.append("This is a network's own benchmark, not another one: its features were learned for these classes.")
    return notes
