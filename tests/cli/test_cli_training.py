import re
from pathlib import Path

import pytest

from tests.cli.command import CommandLine

pytest.importorskip("torch")

TINY = """name: tiny
model: {{kind: cnn, blocks: [{{filters: 4}}]}}
data: {{dataset: digits, size: 8}}
train: {{epochs: 2, batch_size: 256}}
resources: {{cpus: 1}}
store: {store}
"""


@pytest.mark.slow
def test_a_cnn_is_trained_on_a_terminal_with_live_progress_and_then_classifies_an_image(cloud_train: CommandLine, tmp_path: Path) -> None:
    from PIL import Image

    job = cloud_train.folder / "tiny.yaml"
    job.write_text(TINY.format(store=cloud_train.folder / "runs"))
    with cloud_train.terminal("submit", job, "--set", "train.epochs=20", "--follow", columns=160) as terminal:  # for some seconds
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    assert re.search(r"epoch \d+/20\x1b\[0m  \S*━?\S*  step \d+/120  ", shown)
    assert "validation/accuracy" in shown
    assert "cloud-train fetch-model tiny-" in shown

    # The live line shows each epoch only if it is redrawn often enough; the table always does.
    rows = cloud_train("metrics").text.splitlines()
    assert rows[0].split()[:3] == ["EPOCH", "STEP", "train/accuracy"]
    assert [row.split()[:2] for row in rows[1:]] == [[str(epoch), str(6 * epoch)] for epoch in range(1, 21)]

    Image.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    assert re.match(r"CLASS +PROBABILITY +NEXT +FILE\n\d +\d+\.\d% ", cloud_train("predict", "tiny", tmp_path / "grey.png").text)
    refused = cloud_train("predict", "tiny", "--prompt", "The ", "--json")
    assert refused.status == 2
    assert "classifies images" in refused.json["error"]["message"]
