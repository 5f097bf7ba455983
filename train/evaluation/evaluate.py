"""The evaluation: every checkpoint through every task; results that several tasks need are computed once."""

from dataclasses import dataclass, field

from pipeline import safe_html, storage
from pipeline.images.decode import Unreadable
from train.evaluation import (
    averages,
    classes,
    features,
    geolocation,
    models,
    probe_tasks,
    report,
    results,
    retrieval_bias_tasks,
    robustness_task,
    sets,
    zeroshot_task,
)
from train.evaluation.encoded_model import EncodedModel, EncodingWatch
from train.evaluation.options import EvalConfig
from train.evaluation.probe_tasks import Fitting
from train.evaluation.results import Result


@dataclass(kw_only=True)
class Evaluation:
    """Hold the findings so far."""

    config: EvalConfig
    watch: EncodingWatch
    results: list[Result] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)
    """Of the models, by name."""
    gflops: dict[str, float] = field(default_factory=dict)
    """Of one image's forward pass, by model; of foreign encoders the value of --gflops."""
    fittings: list[Fitting] = field(default_factory=list)

    def zero_shot(self, model: str, dataset: str) -> Result | None:
        """Return a model's zero-shot result on a set, if it was measured."""
        own = (r for r in self.results if (r.model, r.dataset, r.task) == (model, dataset, "zeroshot"))
        return next(own, None)


def run(config: EvalConfig, watch: EncodingWatch) -> Evaluation:
    """Evaluate, and write results.json, report.html, and the other files asked for.

    ValueError for two models of one name.
    """
    done = Evaluation(config=config, watch=watch)
    for source in models.sources(config.checkpoint):
        encoder = models.load(source, config)
        done.paths[source.name], done.gflops[source.name] = source.path, encoder.gflops
        with sets.decoders(encoder.size, config.workers) as decoders:
            _run_subject(done, EncodedModel(encoder, config, watch, decoders))
    done.gflops |= features.read_gflops(config.gflops, config.encoders) if config.gflops else {}
    for name, path in config.encoders:
        if name in done.paths:
            raise ValueError(f"--features {name}: a checkpoint has that name; give another")
        done.paths[name] = path
        _run_foreign(done, name, path)
    if "few-shot" in config.task:
        probe_tasks.publish_draws(storage.join(config.out, "few_shot_draws.json"), done.fittings)
    done.results = averages.with_splits(done.results, config.confidence)
    found = results.to_json(done.results, done.paths, config.language)
    storage.write_bytes(storage.join(config.out, "results.json"), found)
    path = storage.join(config.out, "report.html")
    links = [
        link
        for one in models.sources(config.checkpoint)
        for link in safe_html.link(path, storage.join(one.path, "report.html"), f"the training of {one.name}")
    ]
    averaged = averages.over_sets(done.results, config.confidence)
    page = report.render(done.results, config, done.gflops, averaged, links)
    storage.write_bytes(path, page.encode())
    for one in models.sources(config.checkpoint):
        safe_html.link_back(storage.join(one.path, "report.html"), path, "an evaluation")
    return done


def _run_subject(done: Evaluation, encoded: EncodedModel) -> None:
    config, before = done.config, len(done.results)
    if "zeroshot" in config.task:
        labels = {one.name: _labels(encoded, one.name) for one in config.sets} if config.compare else {}
        done.results += zeroshot_task.run(encoded, zeroshot_task.others(config, labels), labels)
    names = [one.name for one in config.sets if config.fits(one.name)]
    fitted = {name: _fitting(encoded, name) for name in names if zeroshot_task.is_classified(encoded, name)}
    for name, own in fitted.items():
        _run_fitting(done, own, encoded, name)
    if "retrieval" in config.task:
        done.results += retrieval_bias_tasks.run_retrieval(encoded)
    if "robustness" in config.task:
        done.results += robustness_task.run(encoded, fitted.get(config.sets[0].name))
    if "geolocation" in config.task:
        done.results += geolocation.run(encoded)
    if "bias" in config.task:
        done.results += retrieval_bias_tasks.run_bias(encoded)
    known = {one.name for one in config.sets}
    for result in done.results[before:]:
        if result.dataset in known:
            _add_unreadable(result, encoded.features(result.dataset).unreadable)


def _add_unreadable(result: Result, unreadable: tuple[Unreadable, ...]) -> None:
    """Say in a set's result which examples could not be decoded: they are in no metric."""
    result.metrics["unreadable"] = len(unreadable)
    if unreadable:
        result.detail["unreadable"] = [one._asdict() for one in unreadable]


def _labels(encoded: EncodedModel, name: str) -> dict[str, str]:
    found = encoded.features(name)
    return dict(zip(found.example_ids, found.labels, strict=True))


def _fitting(encoded: EncodedModel, name: str) -> Fitting:
    held = encoded.config.split("validation", name)
    return Fitting(
        model=encoded.name, dataset=name, config=encoded.config, watch=encoded.watch,
        device=encoded.encoder.device, known=encoded.classes(name), train=encoded.features(name, "train"),
        validation=encoded.features(name, "validation") if held else None, test=encoded.features(name),
    )  # fmt: skip


def _run_fitting(done: Evaluation, own: Fitting, encoded: EncodedModel | None, name: str) -> None:
    zero_shot = done.zero_shot(own.model, name)
    if zero_shot is None and encoded is not None:
        zero_shot = zeroshot_task.reference(encoded, name)
    if "linear-probe" in done.config.task:
        result, logits, truth = probe_tasks.probe_result(own, zero_shot)
        done.results.append(result)
        if encoded is not None:
            done.results += zeroshot_task.scored_subsets(
                encoded, name, "linear-probe", logits, truth, own.test
            )
        if done.config.save_predictions:
            table = results.predictions(own.test, logits, own.known, truth)
            zeroshot_task.save_predictions(done.config, own.model, name, "linear-probe", table)
    if "few-shot" in done.config.task:
        done.results.append(probe_tasks.few_shot_result(own, zero_shot))
        done.fittings.append(own)


def _run_foreign(done: Evaluation, model: str, path: str) -> None:
    """Fit probes on another encoder's features."""
    found = features.read_foreign(path)
    device = models.device_of(done.config.device)
    names = list(dict.fromkeys(name for name, _ in found))
    shifted = [name for name in names if "robustness" in done.config.task and (name, "train") not in found]
    sources = []
    for name in names:
        if name in shifted:
            continue
        dataset = name or (done.config.sets[0].name if len(done.config.sets) == 1 else model)
        if (name, "train") not in found or (name, "test") not in found:
            raise ValueError(f"{path}: {dataset} needs rows of split train and of split test")
        train, test = found[name, "train"], found[name, "test"]
        known = classes.of(
            dataset, [*test.labels, *train.labels], done.config.for_set("classes", dataset),
            several=done.config.several(dataset),
        )  # fmt: skip
        own = Fitting(
            model=model, dataset=dataset, config=done.config, watch=done.watch, device=device, known=known,
            train=train, validation=found.get((name, "validation")), test=test,
        )  # fmt: skip
        _run_fitting(done, own, None, dataset)
        sources.append(own)
    if shifted and len(sources) != 1:
        raise ValueError(f"{path}: robustness needs one dataset with rows of split train, the source")
    if shifted:
        parts = {name: found[name, "test"] for name in shifted}
        done.results += robustness_task.run_foreign(sources[0], parts)
