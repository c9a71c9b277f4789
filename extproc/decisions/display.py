"""An explanation as a tree for a terminal."""

from rich.text import Text
from rich.tree import Tree

from extproc.decisions.explain import (
    Action,
    DecisionFound,
    Explanation,
    PartitionFound,
    RuleFound,
    ScoreFound,
    SignalFound,
)


def as_tree(explanation: Explanation) -> Tree:
    """Readings, projections, decisions in the order they are tried, and what happens."""
    tree = Tree(Text(f"recipe {explanation.recipe}", style="bold"))
    tree.add(f"about {explanation.prompt_tokens} tokens")
    _branch(tree, "signals", [_signal(each) for each in explanation.signals])
    _branch(tree, "partitions", [_partition(each) for each in explanation.partitions])
    _branch(tree, "scores", [_score(each) for each in explanation.scores])
    _branch(tree, "decisions", [_decision(each) for each in explanation.decisions])
    tree.add(_action(explanation.action))
    return tree


def _branch(tree: Tree, title: str, below: list[Tree]) -> None:
    if below:
        tree.add(Text(title, style="bold")).children.extend(below)


def _mark(held: bool | None) -> Text:
    match held:
        case True:
            return Text("✓ ", style="green")
        case False:
            return Text("✗ ", style="dim")
        case None:
            return Text("? ", style="yellow")


def _signal(found: SignalFound) -> Tree:
    line = _mark(found.match).append(found.name, style="default")
    facts = []
    if found.score is not None and found.score != float(found.match or 0):
        facts.append(f"score {found.score:.3g}")
    if found.value is not None:
        facts.append(f"value {found.value:g}")
    facts += [f"{label} {score:.2f}" for label, score in found.labels.items()]
    if found.hits:
        facts.append("hits " + ", ".join(map(repr, found.hits)))
    if found.match is None:
        facts.append("no reading")
    if found.milliseconds is not None:
        facts.append(f"{found.milliseconds:.2f} ms")
    return Tree(line.append("  " + " · ".join(facts), style="dim"))


def _partition(found: PartitionFound) -> Tree:
    why = "  the default, for want of a reading" if found.unsure else ""
    tree = Tree(Text(f"{found.name} = ").append(found.winner, style="cyan").append(why, "yellow"))
    for member, held in found.members.items():
        share = "" if found.shares is None else f"  share {found.shares[member]:.2f}"
        tree.add(_mark(held).append(member, style="default").append(share, style="dim"))
    return tree


def _score(found: ScoreFound) -> Tree:
    value = "unknown" if found.value is None else f"{found.value:.3g}"
    line = Text(f"{found.name} = {value}  ").append(found.band or "no band", style="cyan")
    near = [
        f"{distance:.3g} {where}"
        for distance, where in ((found.to_lower, "above the band below"), (found.to_upper, "below the next band"))
        if distance is not None
    ]  # fmt: skip
    tree = Tree(line.append("  " + " · ".join(near), style="dim"))
    for name, added in found.contributions.items():
        tree.add(Text("unknown" if added is None else f"{added:+.3g}").append(f"  {name}", "dim"))
    return tree


_STYLES = {"answers": "bold green", "watches": "magenta", "unknown": "yellow"}


def _decision(found: DecisionFound) -> Tree:
    line = Text(found.name, style="bold" if found.verdict == "answers" else "default")
    line.append(f"  {found.verdict}", style=_STYLES.get(found.verdict, "dim"))
    if found.priority:
        line.append(f" · priority {found.priority}", style="dim")
    if found.percent != 100:
        line.append(f" · {found.percent:g} percent", style="dim")
    if found.shadow:
        line.append(" · shadow", style="dim")
    tree = Tree(line)
    if found.when is not None:
        tree.children.append(_rule(found.when))
    return tree


def _rule(found: RuleFound) -> Tree:
    tree = Tree(_mark(found.held).append(found.rule, style="default"))
    tree.children.extend(_rule(part) for part in found.parts)
    return tree


def _action(action: Action) -> Text:
    line = Text("→ ", style="bold green").append(action.decision, style="bold green")
    line.append(f": {action.algorithm}", style="default")
    if action.status is not None:
        return line.append(f", {action.status}: {action.message}", style="default")
    if action.models:
        how = "routed to" if action.routed else "of"
        line.append(f" {how} {', '.join(action.models)}", style="default")
    most = []
    if action.calls is not None:
        most.append(f"{action.calls} calls")
    most.append("any number of tokens" if action.tokens is None else f"{action.tokens} tokens")
    most.append("unknown cost" if action.cost_usd is None else f"{action.cost_usd} USD")
    return line.append(f", at the most {', '.join(most)}", style="dim")
