"""What tapes and coverage say of themselves, to a terminal and to a notebook."""

import torch
from torch import nn

import salience


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 4), nn.Linear(6, 3)

    def forward(self, ids, image, mask, double=False):
        read = self.words(ids).sum((1, 2))[:, None] * mask.sum(1, keepdim=True)
        return {"rest": image, "heads": [self.layer(image) * (1 + double) + read]}


def given():
    return {
        "ids": torch.tensor([[1, 5, 2], [3, 3, 0]]),
        "image": torch.ones(2, 6),
        "mask": torch.ones(2, 3, dtype=torch.bool),
        "double": True,
    }


def test_a_tape_says_what_it_read_and_where_it_has_maps():
    tape = salience.record(Parts().eval(), given(), output="heads.0")
    head, *lines = repr(tape).splitlines()
    count = len(tape.recording.trace.operations)
    assert count > 5 and head == f"Tape of Parts: {count} recorded operations"
    assert [line.split("  ") for line in map(str.rstrip, lines)] == [
        line.split("  ")
        for line in """\
part            shape   type     map
input ids       (2, 3)  int64    (2, 3, 4)
input image     (2, 6)  float32  (2, 6)
input mask      (2, 3)  bool     none
input double            bool     none
output heads.0  (2, 3)  float32""".splitlines()
    ]
    maps = tape.explain("gradient", 0)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"ids": (2, 3, 4), "image": (2, 6)}


def test_a_tape_of_a_function_has_its_name_and_the_positions_of_its_inputs():
    def weighted(a, b):
        return a * b, a

    x = torch.ones(2, 3)
    lines = repr(salience.record(weighted, (x, x), output=(0,))).splitlines()
    assert lines[0] == "Tape of weighted: 1 recorded operation"
    assert [line.split("  ")[0] for line in lines[2:]] == ["input 0", "input 1", "output 0"]


def test_a_tape_at_other_values_says_the_same():
    tape = salience.record(nn.Linear(3, 2).eval(), torch.ones(2, 3))
    assert repr(tape.again(torch.zeros(2, 3))) == repr(tape)


def hostile(text):
    """A model whose name, and that of its output, come from anybody."""

    class Named(nn.Linear):
        def forward(self, x):
            return {text: super().forward(x), "rest": x}

    Named.__name__ = text
    return Named(3, 2).eval()


def test_a_notebook_s_tape_is_escaped_and_says_what_the_text_does():
    tape = salience.record(hostile("<b>\x1b[31m"), torch.ones(1, 3), output="<b>\x1b[31m")
    page, text = tape._repr_html_(), repr(tape)
    assert "<b>" not in page and "\x1b" not in page + text
    assert page.startswith("<p>Tape of &lt;b&gt;\\x1b[31m: 1 recorded operation</p><table>")
    assert "<td>output &lt;b&gt;\\x1b[31m</td>" in page and page.count("<tr>") == 3
    assert "output <b>\\x1b[31m" in text


def test_coverage_is_its_table_in_a_terminal_and_in_a_notebook():
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    coverage = salience.record(net, torch.ones(1, 3)).coverage("guided_backprop")
    lines = [line.split() for line in repr(coverage).splitlines()]
    assert lines[0] == ["operation", "kind", "calls", "treatment"]
    assert lines[1:] == [
        ["linear", "linear", "2", "autograd"],
        "gelu activation 1 not covered".split(),
    ]
    assert str(coverage) == repr(coverage)
    assert coverage._repr_html_().count("<tr>") == 3


def test_a_notebook_s_coverage_is_escaped():
    row = salience.record(nn.Linear(3, 2).eval(), torch.ones(1, 3)).coverage("gradient")[0]
    coverage = salience.Coverage([row._replace(operation="<b>\x1b[31m")])
    assert "<td>&lt;b&gt;\\x1b[31m</td>" in coverage._repr_html_()
    assert "\x1b" not in coverage._repr_html_() + repr(coverage)
