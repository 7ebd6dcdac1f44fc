"""Whether a codebook is healthy, in training and in reports: how many of its codes are in use."""

FEW_CODES = 0.25
"""Least share of the codes that a healthy run uses, once the learning rate has warmed up."""

HIGH_ACCURACY = 0.5
"""Contrastive accuracy that with few codes shows a degenerate codebook: frames of a few large
classes are easy to tell apart.  Measured on human speech: 0.6 to 0.7 with 9 of 64 codes, and
representations worth little; healthy runs of the same model have 0.2 to 0.3."""


def codebook_problem(
    code_perplexity: float, accuracy: float, codes: float, warmed_up: bool = True
) -> str | None:
    """What is wrong with a codebook of `codes` entries in all groups; None if nothing is.

    Before the end of the warm-up (`warmed_up`) few codes alone are no problem: the first useful
    codes displace the random ones.
    """
    if code_perplexity >= FEW_CODES * codes:
        return None
    share = f"{code_perplexity:.1f} of {codes:.0f} codes in use"
    if accuracy >= HIGH_ACCURACY:
        return f"degenerate codebook: {share}, so its accuracy of {accuracy:.2f} means little"
    return f"few codes: {share}, less than a quarter" if warmed_up else None


def codebook_advice(weight: float, keep_equal: bool) -> str:
    """How to fix it; `weight`: the diversity weight so far, `keep_equal`: whether distractors with
    the target's codes count."""
    more = max(0.5, 2 * weight)
    keep = "" if keep_equal else "set --keep_equal_distractors true, and "
    raised = f"raise the diversity weight, the first of --loss_weights, from {weight:g} to {more:g}"
    return keep + raised
