"""Read the options that choose lanes and profile, for the verbs that replay."""

import argparse
from typing import TYPE_CHECKING

from replay.cli.numbers import whole

if TYPE_CHECKING:
    from replay.cli.console import Console
    from replay.engine.lane import Lane
    from replay.header import Header


def add_lanes(parser: argparse.ArgumentParser) -> None:
    """Add --lanes and --profile."""
    parser.add_argument(
        "--lanes",
        default="eager,on-demand",
        metavar="LANE,LANE",
        help=(
            "policies, releases or policy files to replay, the reference first: eager, on-demand, 6.8, 6.9@tdp=0, ./mine.py; "
            "all for every policy (default: eager,on-demand)"
        ),
    )
    add_profile(parser)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add --profile."""
    parser.add_argument(
        "--profile",
        default="",
        metavar="FACT=VALUE,...",
        help="facts of the machine that stand above the recording's header, for example release=6.8,config=y,tdp=1",
    )


def add_order_budget(parser: argparse.ArgumentParser) -> None:
    """Add --order-budget."""
    parser.add_argument(
        "--order-budget",
        type=whole("a number of calls, such as 10000", most=10**12 - 1),
        default=10_000,
        metavar="CALLS",
        help="most calls to try in search of an order for each group of calls that overlap in time (default: 10000)",
    )


def lanes_of(args: argparse.Namespace, header: "Header", console: "Console") -> "list[Lane]":
    """Return the lanes that the options name; say which policies `all` has to leave out.

    Raises ProfileError for what is no lane or no fact.
    """
    from replay.engine.lanes import left_out, make_lanes
    from replay.kvm.profile import parse_facts
    from replay.policy_file import answered_for, own_policies

    specs = [spec.strip() for spec in args.lanes.split(",") if spec.strip()]
    facts = parse_facts(args.profile)
    for why in left_out(specs, header.machine, facts):
        console.note(f"lane left out: {why}")
    own = own_policies(specs)
    console.at_end.enter_context(answered_for(own))
    return make_lanes(specs, header.machine, facts, own=own)
