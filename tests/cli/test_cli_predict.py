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

    others = cloud_train.folder / "others.tsv"
    others.write_text("good\tit was fine 40\nbad\tit was poor 41\nbad\tit was fine 42\n")
    shown = cloud_train("evaluate", "mood", others).text.splitlines()
    assert shown[0] == f"{others}, 3 lines"
    assert re.fullmatch(r"loss \d\.\d{4}, accuracy 0\.6667", shown[1])
    assert shown[3].split() == ["CLASS", "SAMPLES", "RECALL", "PRECISION"]
    assert [line.split() for line in shown[4:6]] == [["bad", "2", "50.0%", "100.0%"], ["good", "1", "100.0%", "50.0%"]]
    assert shown[-1].split() == ["bad", "good", "1"]
    answer = cloud_train("evaluate", "mood", others, "--json").json
    assert (answer["samples"], answer["confusions"]) == (3, [{"class": "bad", "predicted": "good", "samples": 1}])
    others.write_text("ugly\tit was fine\n")
    refused = cloud_train("evaluate", "mood", others, "--json")
    assert (refused.status, refused.json["error"]["code"]) == (2, "usage")
    assert "'ugly'" in refused.json["error"]["message"]
    assert cloud_train("evaluate", "mood", "missing.tsv", "--json").json["error"]["code"] == "not-found"


@pytest.mark.parametrize("asked", [[], ["--text=a", "--prompt=b"], ["a.png", "--text=a"], ["a.png", "--prompt=b"]])
def test_predict_takes_one_kind_of_input_at_a_time(cloud_train: CommandLine, asked: list[str]) -> None:
    ended = cloud_train("predict", "any", *asked, "--json")
    assert (ended.status, ended.json["error"]["code"]) == (2, "usage")
    assert "--text" in ended.json["error"]["message"]
