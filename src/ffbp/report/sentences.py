"""What the runs of one data set show, in sentences that compare like with like."""

from collections import defaultdict
from collections.abc import Sequence

from ffbp.report.curves import curve, seconds_to
from ffbp.report.runs import Group

# the two combinations that the article compares, with the one between them that tells rule and network apart
CELLS = ("backprop, cnn", "backprop, mlp", "Forward-Forward, mlp")


def conclusions(groups: Sequence[Group]) -> list[str]:
    """The answer, and what else can be said.

    Args:
        groups: of one data set, the most accurate first.
    """
    best = groups[0]
    if len(groups) == 1:
        return [f"{_name(best)} recognises {percent(best)} % of the test images after {_training(best)}."]
    rules = [group for group in groups if group.first["algo"] != best.first["algo"]]
    other = (rules or groups[1:])[0]
    who = _name(other) if other is groups[1] else f"the best of another rule, {_name(other)},"
    less = 100 * ((best.mean("test/acc") or 0.0) - (other.mean("test/acc") or 0.0))
    spread = sum((100 * (group.deviation("test/acc") or 0.0)) ** 2 for group in (best, other)) ** 0.5
    close = ", no more than the seeds differ" if less < spread else ""
    answer = (
        f"{_name(best)} is the most accurate, with {percent(best)} % of the test images after {_training(best)}; {who} "
        f"comes to {percent(other)} % after {_training(other)}, {less:.2f} points less{close}."
    )
    return [answer, *_time_to_accuracy(best, other), *_times_at_equal_epochs(groups), *_rule_and_network(groups)]


def answers(groups: Sequence[Group]) -> list[str]:
    """The answer for each data set, after its name."""
    sets = {
        name: [group for group in groups if group.first["data"] == name] for name in (g.first["data"] for g in groups)
    }
    return [f"{name}: {conclusions(found)[0]}" for name, found in sets.items()]


def percent(group: Group, name: str = "test/acc") -> str:
    """An accuracy in %, mean and sample deviation; a dash where it is undefined."""
    mean, deviation = group.mean(name), group.deviation(name)
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return "-" if mean is None else f"{100 * mean:.2f}{spread}"


def _name(group: Group) -> str:
    return f"“{group.label}”"


def _training(group: Group) -> str:
    epochs = group.first["epochs"]
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def _time_to_accuracy(one: Group, two: Group) -> list[str]:
    """How long two groups take to an accuracy that both reach, if they ran on the same kind of machine."""
    reached = [found.mean.max() for group in (one, two) if (found := curve(group, "val/acc"))]
    if len(reached) < 2 or not _same_machine([one, two]):
        return []
    target = int(1000 * min(reached)) / 1000
    seconds = [seconds_to(group, target) for group in (one, two)]
    if seconds[0] is None or seconds[1] is None or target <= 0:
        return []
    return [
        f"To reach {100 * target:.1f} % on the validation images, {_name(one)} trains for {seconds[0]:.1f} s, "
        f"{_name(two)} for {seconds[1]:.1f} s."
    ]


def _times_at_equal_epochs(groups: Sequence[Group]) -> list[str]:
    """The shortest and the longest training among the most groups that have the same number of epochs."""
    by_epochs: dict[int, list[Group]] = defaultdict(list)
    for group in groups:
        by_epochs[group.first["epochs"]].append(group)
    same = max(by_epochs.values(), key=len)
    if len(same) < 2 or not _same_machine(same):
        return []
    by_time = sorted(same, key=lambda group: group.mean("time/train_seconds") or 0.0)
    fast, slow = ((_name(group), group.mean("time/train_seconds") or 0.0) for group in (by_time[0], by_time[-1]))
    if len(same) == 2:
        return [f"The same {_training(same[0])} take {fast[0]} {fast[1]:.1f} s, and {slow[0]} {slow[1]:.1f} s."]
    return [
        f"Of the {len(same)} groups with {_training(same[0])}, {fast[0]} trains for the shortest time, "
        f"{fast[1]:.1f} s, and {slow[0]} for the longest, {slow[1]:.1f} s."
    ]


def _rule_and_network(groups: Sequence[Group]) -> list[str]:
    """How much of the article's difference is due to the rule, and how much to the network."""
    for epochs in dict.fromkeys(group.first["epochs"] for group in groups):
        same = [group for group in groups if group.first["epochs"] == epochs]
        cells = {base: [group for group in same if group.runs[0].base == base] for base in CELLS}
        if all(len(found) == 1 for found in cells.values()):
            bp_cnn, bp_mlp, ff_mlp = (100 * (cells[base][0].mean("test/acc") or 0.0) for base in CELLS)
            return [
                f"Backprop on the CNN and Forward-Forward on the MLP differ by {bp_cnn - ff_mlp:.2f} points of "
                f"accuracy: {bp_mlp - ff_mlp:.2f} from the algorithm (both on the MLP), "
                f"{bp_cnn - bp_mlp:.2f} from the network (both by backprop)."
            ]
    return []


def _same_machine(groups: Sequence[Group]) -> bool:
    """Whether times can be compared: of one kind of device, with as many threads."""
    return len({(run.metrics.get("device"), run.metrics.get("threads")) for group in groups for run in group.runs}) == 1
