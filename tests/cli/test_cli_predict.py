"""``cloud-train predict`` with a classifier of lines, and with invalid arguments."""

import re

import pytest

from tests.cli.command import CommandLine

JOB = """name: mood
model: {{kind: rnn, hidden_size: 8, embedding_size: 8}}
data: {{dataset: sequences, path: {lines}}}
train: {{epochs: 8, batch_size: 8, optimizer: {{lr: 3e-2}}}}
resources: {{cpus: 1}}
store: {store}
"""
SERIES = """name: sales
model: {{kind: rnn, hidden_size: 4, quantiles: [0.1, 0.9]}}
data: {{dataset: series, path: {file}, time: day, id: shop, targets: sales, horizon: 3, season: 7}}
train: {{epochs: 1, batch_size: 8}}
resources: {{cpus: 1}}
store: {store}
"""


@pytest.mark.slow
def test_lines_of_text_are_classified(cloud_train: CommandLine) -> None:
    pytest.importorskip("torch")
    lines = cloud_train.folder / "lines.tsv"
    lines.write_text("".join(f"good\tit was fine {number}\nbad\tit was poor {number}\n" for number in range(30)))
    job = cloud_train.folder / "mood.yaml"
    job.write_text(JOB.format(lines=lines, store=cloud_train.folder / "runs"))
    assert cloud_train("submit", job, "--follow").status == 0

    shown = cloud_train("predict", "mood", "--text", "it was fine 2", "--text", "--poor\tit was 3").text.splitlines()
    assert shown[0].split() == ["CLASS", "PROBABILITY", "NEXT", "TEXT"]
    assert re.fullmatch(r"good +\d+\.\d% +bad \(\d+\.\d%\) +it was fine 2", shown[1])
    assert re.fullmatch(r"bad +\d+\.\d% +good \(\d+\.\d%\) +--poor    it was 3", shown[2])

    answer = cloud_train("predict", "mood", "--text", "fine", "--json").json
    assert answer["run_id"].startswith("mood-")
    assert [(one["text"], one["class"], list(one["scores"])) for one in answer["predictions"]] == [("fine", "good", ["bad", "good"])]

    unknown = cloud_train("predict", "mood", "--text", "qwerty", "--text", "it was fine 2")
    assert unknown.err == "warning: nothing of 'qwerty' is in the model's vocabulary, so its class is a guess\n"

    others = cloud_train.folder / "others.tsv"
    others.write_text("good\tit was fine 40\nbad\tit was poor 41\nbad\tit was fine 42\n")
    shown = cloud_train("evaluate", "mood", others).text.splitlines()
    assert shown[0] == f"{others}, 3 lines"
    assert re.fullmatch(r"loss \d\.\d{4}, accuracy 0\.6667, macro F1 0\.6667, AUC [01]\.\d{4}", shown[1])
    assert shown[3].split() == ["CLASS", "SAMPLES", "RECALL", "PRECISION", "F1"]
    assert [line.split() for line in shown[4:6]] == [
        ["bad", "2", "50.0%", "100.0%", "66.7%"],
        ["good", "1", "100.0%", "50.0%", "66.7%"],
    ]
    assert shown[-1].split() == ["bad", "good", "1"]
    answer = cloud_train("evaluate", "mood", others, "--json").json
    assert (answer["samples"], answer["confusions"]) == (3, [{"class": "bad", "predicted": "good", "samples": 1}])
    others.write_text("ugly\tit was fine\n")
    refused = cloud_train("evaluate", "mood", others, "--json")
    assert (refused.status, refused.json["error"]["code"]) == (2, "usage")
    assert "'ugly'" in refused.json["error"]["message"]
    assert cloud_train("evaluate", "mood", "missing.tsv", "--json").json["error"]["code"] == "not-found"


@pytest.mark.slow
def test_time_series_are_forecast(cloud_train: CommandLine) -> None:
    pytest.importorskip("torch")
    rows = "".join(f"{shop},2026-01-{day:02d},{day % 7 + number}\n" for number, shop in enumerate("ab") for day in range(1, 31))
    file = cloud_train.folder / "sales.csv"
    file.write_text("shop,day,sales\n" + rows)
    job = cloud_train.folder / "sales.yaml"
    job.write_text(SERIES.format(file=file, store=cloud_train.folder / "runs"))
    assert cloud_train("submit", job, "--follow").status == 0

    shown = cloud_train("predict", "sales", "--series", file).text.splitlines()
    assert shown[0].split() == ["TIME", "SERIES", "SALES", "0.1", "SALES", "0.9"]
    assert [line.split()[:2] for line in shown[1:]] == [[f"2026-0{day}", shop] for shop in "ab" for day in ("1-31", "2-01", "2-02")]
    found = cloud_train("predict", "sales", "--series", file, "--json").json["predictions"]
    assert [(one["series"], one["time"]) for one in found[:2]] == [("a", "2026-01-31"), ("a", "2026-02-01")]
    assert found[0]["quantiles"]["sales"]["0.1"] == found[0]["values"]["sales"]

    shown = cloud_train("evaluate", "sales", file).text.splitlines()
    assert re.fullmatch(re.escape(str(file)) + r", \d+ forecasts", shown[0])
    assert re.fullmatch(r"loss \d\.\d{4}, coverage \d\.\d{4}", shown[1])
    assert [line.split()[:-2] for line in shown[4:]] == [["mean", "absolute"], ["root", "mean", "square"], ["scaled", "(MASE)"]]
    assert cloud_train("predict", "sales", "--series", "none.csv", "--json").json["error"]["code"] == "not-found"
    assert "it does not accept --text" in cloud_train("predict", "sales", "--text", "a", "--json").json["error"]["message"]
    file.write_text("shop,day,sales\na,2026-01-01,1\na,2026-01-03,1\na,2026-01-04,1\n")
    refused = cloud_train("predict", "sales", "--series", file, "--json")
    assert (refused.status, refused.json["error"]["code"]) == (2, "usage")
    assert "a gap in the series 'a': 2026-01-03 follows 2026-01-01" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    "asked", [[], ["a.png", "--series=b.csv"], ["--text=a", "--prompt=b"], ["a.png", "--text=a"], ["a.png", "--prompt=b"]]
)
def test_predict_takes_one_kind_of_input_at_a_time(cloud_train: CommandLine, asked: list[str]) -> None:
    ended = cloud_train("predict", "any", *asked, "--json")
    assert (ended.status, ended.json["error"]["code"]) == (2, "usage")
    assert "--text" in ended.json["error"]["message"]
