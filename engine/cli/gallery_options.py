"""The options of a gallery's settings, for `gallery create` and `gallery update`. Knows no server."""

from __future__ import annotations

import argparse

from engine.cli.arguments import UsageError, rate, similarity, similarity_difference, whole
from engine.gallery_settings import SettingsChanges, SettingsKeywords
from engine.limits import TEMPLATES_PER_IDENTITY_MAX
from engine.types import CrowdingCorrection, GallerySettings

CLEARED = ("threshold", "target_fpir", "review_fpir", "target_fmr")
"""What can be cleared."""
_DEFAULT = GallerySettings()


def add_settings_options(parser: argparse.ArgumentParser, *, is_update: bool) -> None:
    """Add the options of the settings that can be chosen at creation and later."""

    def otherwise(default: str) -> str:
        return "default: unchanged" if is_update else f"default: {default}"

    parser.add_argument(
        "--threshold",
        metavar="SIMILARITY",
        type=similarity,
        help=f"accept at or above this cosine, -1 to 1 ({otherwise('that of the network')})",
    )
    parser.add_argument(
        "--target-fpir",
        metavar="RATE",
        type=rate,
        help="instead of a fixed threshold: accept at most this share of strangers, say 0.001, however many"
        " people are enrolled; the threshold follows from the network's calibration"
        f" ({otherwise('a fixed threshold')})",
    )
    parser.add_argument(
        "--review-fpir",
        metavar="RATE",
        type=rate,
        help="with --target-fpir: answer REVIEW, for a person to look at, up to this larger share of"
        f" strangers ({otherwise('no review')})",
    )
    parser.add_argument(
        "--ambiguity",
        metavar="DIFFERENCE",
        type=similarity_difference,
        help="answer REVIEW instead of MATCH where a second identity is nearer to the best than this"
        f" difference of similarities, 0 to 2 ({otherwise('0, never')})",
    )
    parser.add_argument(
        "--target-fmr",
        metavar="RATE",
        type=rate,
        help="of `verify`: accept at most this share of impostors; the threshold follows from the network's"
        f" calibration ({otherwise('the threshold of the gallery or of the network')})",
    )
    parser.add_argument(
        "--crowding",
        choices=tuple(crowding.value for crowding in CrowdingCorrection),
        help="correct similarities by how crowded probe and candidate stand among others; auto: where the"
        f" network's calibration says that it finds more people ({otherwise('auto')})",
    )
    parser.add_argument(
        "--templates-max",
        metavar="NUMBER",
        type=lambda text: whole(text, 1, TEMPLATES_PER_IDENTITY_MAX),
        help=f"most templates of one identity, 1 to {TEMPLATES_PER_IDENTITY_MAX}"
        f" ({otherwise(str(TEMPLATES_PER_IDENTITY_MAX))})",
    )
    parser.add_argument(
        "--probe-statistics",
        action=argparse.BooleanOptionalAction,
        help="count how similar the best candidates of probes are, for `status` to warn where they drift from"
        f" the calibration; keeps no pictures, templates or names ({otherwise('no')})",
    )


def add_clear_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that take settings back."""
    back = {
        "threshold": "no fixed threshold any more: that of the network, or by --target-fpir",
        "target_fpir": "no target rate any more, nor --review-fpir: the threshold of the network",
        "review_fpir": "no REVIEW by a rate any more",
        "target_fmr": "no target rate of `verify` any more",
    }
    for name in CLEARED:
        parser.add_argument(f"--clear-{name.replace('_', '-')}", action="store_true", help=back[name])


def settings_of(arguments: argparse.Namespace) -> GallerySettings:
    """Settings of a new gallery. Raises UsageError where they contradict each other."""
    _check_together(arguments)
    if arguments.review_fpir is not None and arguments.target_fpir is None:
        raise UsageError("--review-fpir needs --target-fpir, the rate that it is above")
    return GallerySettings(
        templates_per_identity_max=arguments.templates_max or _DEFAULT.templates_per_identity_max,
        # Beside a rate only vectors made elsewhere have one: it is their contract's.
        threshold=None if arguments.target_fpir is not None else arguments.threshold,
        keep_crops=arguments.keep_crops,
        target_fpir=arguments.target_fpir,
        review_fpir=arguments.review_fpir,
        ambiguity=arguments.ambiguity or 0.0,
        target_fmr=arguments.target_fmr,
        crowding=CrowdingCorrection(arguments.crowding or _DEFAULT.crowding),
        has_probe_statistics=bool(arguments.probe_statistics),
    )


def changes_of(arguments: argparse.Namespace) -> SettingsKeywords:
    """What `gallery update` shall change. Raises UsageError where it contradicts itself, or is nothing."""
    _check_together(arguments)
    for name in CLEARED:
        if getattr(arguments, f"clear_{name}") and getattr(arguments, name) is not None:
            flag = name.replace("_", "-")
            raise UsageError(f"give either --{flag} or --clear-{flag}")
    changes = SettingsKeywords(
        templates_per_identity_max=arguments.templates_max,
        threshold=arguments.threshold,
        clear_threshold=arguments.clear_threshold,
        target_fpir=arguments.target_fpir,
        clear_target_fpir=arguments.clear_target_fpir,
        review_fpir=arguments.review_fpir,
        clear_review_fpir=arguments.clear_review_fpir,
        ambiguity=arguments.ambiguity,
        target_fmr=arguments.target_fmr,
        clear_target_fmr=arguments.clear_target_fmr,
        crowding=None if arguments.crowding is None else CrowdingCorrection(arguments.crowding),
        has_probe_statistics=arguments.probe_statistics,
    )
    if SettingsChanges(**changes).is_empty:
        raise UsageError("give what to change, for example --target-fpir, --threshold or --templates-max")
    return changes


def _check_together(arguments: argparse.Namespace) -> None:
    is_of_contract = getattr(arguments, "dimension", None) is not None
    if arguments.threshold is not None and arguments.target_fpir is not None and not is_of_contract:
        raise UsageError(
            "give either --threshold or --target-fpir: a threshold is fixed, or follows from a rate"
        )
    rates = (arguments.target_fpir, arguments.review_fpir)
    if None not in rates and rates[1] <= rates[0]:
        raise UsageError("--review-fpir must be more than --target-fpir: more are looked at than accepted")
