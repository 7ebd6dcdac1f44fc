"""The block at the top of a report: what was run, how well it works, and what to do next."""

import json

from tasks.codebook import codebook_problem
from utils.reporting.panels import chance_bits, codebook_entries
from utils.reporting.runs import Evaluation, Run, as_texts
from utils.reporting.tables import percents
from wav2vec2.cli.errors import EXIT_FILE, ExitCode

Row = tuple[str, str]
"""(label, text) of a line."""


def what_was_run(run: Run) -> str:
    """`pretrain: pre-training of mini, update 1,000 of 1,000`."""
    kinds = {"pretrain": "pre-training", "finetune": "fine-tuning", "other": "log"}
    model = run.log.parameters.get("model")
    text = f"{run.name}: {kinds[run.kind]}" + (f" of {model}" if isinstance(model, str) else "")
    last, total = last_update(run), run.log.parameters.get("max_update")
    if last is None:
        return text
    return text + f", update {last:,}" + (f" of {total:,}" if isinstance(total, int) else "")


def last_update(run: Run) -> int | None:
    """The last update in the log."""
    updates = [int(curve.update[-1]) for curve in run.log.curves.values() if len(curve.update)]
    return max(updates, default=None)


def is_warming_up(run: Run) -> bool:
    """Whether a run has not reached the end of its learning rate's warm-up."""
    warmup, last = run.log.parameters.get("warmup_updates"), last_update(run)
    return isinstance(warmup, int) and last is not None and last <= warmup


def health(run: Run) -> Row | None:
    """(reason, what to do) of an unhealthy run; (reason, "") of a healthy one; None: not known."""
    if run.kind == "pretrain":
        perplexity = run.final("val_code_perplexity") or run.final("train_code_perplexity")
        accuracy = run.final("val_accuracy") or run.final("train_accuracy") or 0.0
        codes, text = codebook_entries(run.log.parameters), ""
        if perplexity is not None and codes:
            problem = codebook_problem(perplexity, accuracy, codes, not is_warming_up(run))
            if problem:
                return problem, (
                    "raise the diversity weight, the first of --loss_weights, or lower the "
                    "learning rate"
                )
            if is_warming_up(run):
                return None
            text = f"code perplexity is {100 * perplexity / codes:.0f} % of the codes"
        # Pre-training validates with the contrastive loss alone.
        loss, chance = run.final("val_loss"), chance_bits(run.log.parameters)
        if loss is not None and chance and loss > 0.99 * chance:
            return f"the contrastive loss is that of guessing, {chance:.2f} bits", (
                "train longer, or lower the learning rate"
            )
        return (text, "") if text else None
    blank = run.final("val_blank_share")
    if run.kind == "finetune" and blank is not None:
        if blank > 98:
            return f"{blank:.0f} % of the frames are blank", (
                "train longer, or raise the learning rate; check that labels fit the audio"
            )
        return f"{blank:.0f} % of the frames are blank", ""
    return None


def stopped_by_check(run: Run) -> str:
    """Why a health check ended the run; "" if none did."""
    folder = run.path if run.path.is_dir() else run.path.parent
    try:
        record = json.loads((folder / EXIT_FILE).read_text(encoding="utf-8"))
        return str(record["reason"]) if record["code"] == ExitCode.HEALTH else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def example(evaluation: Evaluation) -> Row | None:
    """The first shown utterance with an error, else the first: (reference, hypothesis)."""
    shown = [pairs for _, pairs in evaluation.shown]
    wrong = (pairs for pairs in shown if any(one != other for one, other in pairs))
    pairs = next(wrong, next(iter(shown), None))
    return None if pairs is None else as_texts(pairs)


def headline(runs: list[Run]) -> list[Row]:
    """The lines of the block, in the order in which they are shown."""
    rows = [("Run", what_was_run(run)) for run in runs if run.log.curves or run.log.parameters]
    evaluations = [evaluation for run in runs for evaluation in run.evaluations]
    for evaluation in evaluations:
        rates = {"WER": evaluation.summary.get("wer")}
        rates[evaluation.unit_rate] = evaluation.summary.get("uer")
        texts = [f"{name} {percents(rate)} %" for name, rate in rates.items() if rate is not None]
        if texts:
            where = f"{evaluation.subset}, {evaluation.utterances:,} utterances"
            rows.append(("Error rates", f"{where}: {', '.join(texts)}"))
        if found := example(evaluation):
            rows += [("Reference", found[0]), ("Hypothesis", found[1])]
    steps = []
    for run in runs:
        if stopped := stopped_by_check(run):
            rows.append(("Not healthy", f"{run.name}: {stopped}"))
            steps.append(f"{run.name}: change its settings as said; it would stop again as it is")
            continue
        state = health(run)
        if state:
            reason, fix = state
            rows.append(("Not healthy" if fix else "Healthy", f"{run.name}: {reason}"))
            steps += [f"{run.name}: {fix}"] if fix else []
        last, total = last_update(run), run.log.parameters.get("max_update")
        if last is not None and isinstance(total, int) and last < total:
            steps.append(f"{run.name}: start it again to resume at update {last:,}")
    if not steps and any(run.kind == "finetune" for run in runs):
        steps = [
            "transcribe recordings: python inference.py transcribe --checkpoint CHECKPOINT FILE"
        ]
        if not evaluations:
            steps = ["measure error rates: python inference.py evaluate --checkpoint CHECKPOINT"]
    elif not steps and any(run.kind == "pretrain" for run in runs):
        steps = ["fine-tune it: PRETRAINED_MODEL=CHECKPOINT bash scripts/finetune_base_100h.sh"]
    return rows + [("Next", step) for step in steps]
