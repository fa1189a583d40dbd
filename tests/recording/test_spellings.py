"""The same function has the same maps, whatever calls it is spelled with."""

import pytest
import torch
import torch.nn.functional as F
from spelled import ACTIVATIONS
from torch import Tensor, nn
from traps import close

import salience

METHODS = [name for name, method in salience.methods.items() if method.single_pass]


def alike(tape: salience.Tape, reference: salience.Tape, target, methods=METHODS) -> None:
    """All maps of two tapes agree; some of a network's may be 0."""
    close(tape.explain("gradient", target), reference.explain("gradient", target))
    for method in methods:
        one, two = tape.explain(method, target), reference.explain(method, target)
        atol = 1e-10 * float(two.abs().max())
        torch.testing.assert_close(one, two, rtol=0, atol=atol, msg=lambda m, k=method: f"{k}: {m}")


class Net(nn.Module):
    """Two dense layers, with a function between them."""

    def __init__(self, function) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

        self.one, self.bias, self.two = drawn(6, 5), drawn(6), drawn(3, 6)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.function(F.linear(x, self.one, self.bias)), self.two)


def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 5, generator=generator, dtype=torch.float64)


def kinds(tape: salience.Tape, method: str) -> set[tuple[str, str]]:
    """What a method does, but for reshapes, shifts and scalings."""
    rows = tape.coverage(method)
    return {(row.kind, row.treatment) for row in rows if row.kind != "structural"}


PAIRS = [
    pytest.param(functions[0], function, id=f"{name}-{i}")
    for name, functions in ACTIVATIONS.items()
    for i, function in enumerate(functions[1:], 1)
]


@pytest.mark.parametrize(("own", "spelled"), PAIRS)
def test_an_activation_in_its_parts(own, spelled):
    plain = salience.record(Net(own).eval(), inputs())
    tape = salience.record(Net(spelled).eval(), inputs())
    for method in METHODS:
        close(tape.explain(method, target=1), plain.explain(method, target=1))
        assert kinds(tape, method) == kinds(plain, method), method


@pytest.mark.parametrize(("own", "spelled"), PAIRS)
def test_an_activation_in_its_parts_when_replayed(own, spelled):
    options = {"controls": False, "progress": False, "scores": ["pearson"]}
    once = salience.Cascade(repeats=1)
    methods = ["lrp_epsilon", "guided_backprop", "lrp_alpha_beta"]
    one, two = (
        salience.randomization_test(Net(f).eval(), inputs(), methods, 1, once, **options).data
        for f in (own, spelled)
    )
    torch.testing.assert_close(
        torch.tensor(two.pearson.values), torch.tensor(one.pearson.values), rtol=0, atol=1e-8,
        equal_nan=True,
    )  # fmt: skip


def test_slopes_of_a_function_may_be_parameters():
    slope = nn.Parameter(torch.linspace(0.1, 0.6, 6, dtype=torch.float64))
    own = salience.record(Net(lambda x: F.prelu(x, slope)).eval(), inputs())
    for function in (
        lambda x: torch.where(x > 0, x, slope * x),
        lambda x: x.clamp(min=0) + slope * x.clamp(max=0),
        lambda x: F.relu(x) - slope * F.relu(-x),
    ):
        tape = salience.record(Net(function).eval(), inputs())
        for method in METHODS:
            close(tape.explain(method, target=1), own.explain(method, target=1))


def test_a_gate_of_another_value_is_no_activation():
    def gated(x: Tensor) -> Tensor:
        return x.flip(-1) * torch.sigmoid(x)

    tape = salience.record(Net(gated).eval(), inputs())
    assert ("product", "shared") in kinds(tape, "lrp_epsilon")


def test_a_variance_under_a_root_stays_a_divisor():
    def norm(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    own = salience.record(Net(lambda x: F.rms_norm(x, (6,), eps=1e-6)).eval(), inputs())
    tape = salience.record(Net(norm).eval(), inputs())
    for method in METHODS:
        close(tape.explain(method, target=1), own.explain(method, target=1))


# ---------------------------------------------------------------- biases and scales by themselves


class Image(nn.Module):
    """Two convolutions and a dense layer, put together by a function of the module and x."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)
        self.norm, self.lone = nn.BatchNorm2d(4), nn.BatchNorm2d(5)
        self.last = nn.Linear(5, 3)
        self.function = function
        for norm in (self.norm, self.lone):
            for values in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(values)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, x).mean((2, 3)))


def torch_own(net: Image, x: Tensor) -> Tensor:
    h = F.relu(net.norm(net.one(x)))
    return F.relu(net.lone(F.max_pool2d(F.relu(net.two(h)), 2)))


def frozen(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    scale = (norm.weight * (norm.running_var + norm.eps).rsqrt()).view(1, -1, 1, 1)
    return x * scale + (norm.bias.view(1, -1, 1, 1) - norm.running_mean.view(1, -1, 1, 1) * scale)


def in_four_steps(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    def per_channel(t: Tensor) -> Tensor:
        return t[None, :, None, None]

    centered = x - per_channel(norm.running_mean)
    return per_channel(norm.weight) * (
        centered / per_channel(torch.sqrt(norm.running_var + norm.eps))
    ) + per_channel(norm.bias)


def bias_after(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, padding=conv.padding) + conv.bias.view(-1, 1, 1)


def channels_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """As Keras has it: a bias over the last dimension, behind a permutation."""
    z = F.conv2d(x, conv.weight, padding=conv.padding).permute(0, 2, 3, 1)
    return (z + conv.bias).permute(0, 3, 1, 2)


def in_place(conv: nn.Conv2d, x: Tensor) -> Tensor:
    z = F.conv2d(x, conv.weight, padding=conv.padding)
    z += conv.bias.view(-1, 1, 1)
    return z


AFFINE = {
    "frozen": (lambda net, x: net.one(x), frozen),
    "four steps": (lambda net, x: net.one(x), in_four_steps),
    "bias after": (lambda net, x: bias_after(net.one, x), frozen),
    "bias behind a permutation": (lambda net, x: channels_last(net.one, x), in_four_steps),
    "bias after calls that change nothing": (
        lambda net, x: (
            F.conv2d(x, net.one.weight, padding=1).to(x.dtype).contiguous().requires_grad_()
            + net.one.bias.view(-1, 1, 1)
        ),
        in_four_steps,
    ),
    "bias in place": (lambda net, x: in_place(net.one, x), lambda norm, x: norm(x)),
}


def spelled_out(convolve, normalize):
    def function(net: Image, x: Tensor) -> Tensor:
        h = F.relu(normalize(net.norm, convolve(net, x)))
        h = F.max_pool2d(F.relu(bias_after(net.two, h)), 2)
        return F.relu(normalize(net.lone, h))

    return function


def images() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("convolve", "normalize"), AFFINE.values(), ids=AFFINE)
def test_biases_and_scales_by_themselves(convolve, normalize):
    plain = salience.record(Image(torch_own), images())
    tape = salience.record(Image(spelled_out(convolve, normalize)), images())
    alike(tape, plain, 1)
    for method in METHODS:
        treated = [{row.treatment for row in t.coverage(method)} for t in (tape, plain)]
        assert treated[0] == treated[1]


@pytest.mark.parametrize(("convolve", "normalize"), AFFINE.values(), ids=AFFINE)
@pytest.mark.parametrize("weights", ["permute", "normal"])
def test_biases_and_scales_by_themselves_when_replayed(convolve, normalize, weights: str):
    """A replay equals a pass recorded with the random weights."""
    from salience._recording.linear_maps import Weights
    from salience._recording.replay import replay
    from salience._recording.run import run_pass

    net = Image(spelled_out(convolve, normalize))
    tape = salience.Tape(run_pass(net, images(), keep=True))
    for value, name in tape.recording.trace.parameters.items():
        generator = torch.Generator().manual_seed(value)
        old = tape.recording.trace.constants[value]
        new = torch.randn(old.shape, generator=generator, dtype=old.dtype)
        again = salience.Tape(replay(tape.recording, {value: new}, Weights(), lambda: None))
        other = Image(net.function)
        with torch.no_grad():
            other.get_parameter(name).copy_(new)
        fresh = salience.record(other, images())
        alike(again, fresh, 1, ("lrp_alpha_beta", "lrp_epsilon", "deep_taylor", "gradient"))


def test_dense_layers_by_their_product():
    def form(spelled):
        class Dense(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(5)
                self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Tensor:
                return spelled(self.two, F.relu(spelled(self.one, x)))

        return salience.record(Dense().double().eval(), images()[:, 0, :6, :6])

    plain = form(lambda layer, x: layer(x))
    for spelled in (
        lambda layer, x: x @ layer.weight.T + layer.bias,
        lambda layer, x: torch.matmul(x, layer.weight.t()).add(layer.bias),
        lambda layer, x: torch.einsum("...i,oi->...o", x, layer.weight) + layer.bias,
        lambda layer, x: layer.bias + (layer.weight @ x.unsqueeze(-1)).squeeze(-1),
        lambda layer, x: layer.bias - F.linear(x, -layer.weight),
        lambda layer, x: F.linear(x, 2 * layer.weight) * 0.5 + layer.bias,
        lambda layer, x: torch.baddbmm(layer.bias, x, layer.weight.T.expand(2, -1, -1)),
    ):
        tape = form(spelled)
        alike(tape, plain, (1, 1))


@pytest.mark.parametrize("cast", [
    lambda norm, z: norm.float()(z.float()).double(),
    lambda norm, z: norm.float()(z.to(torch.float32)).type_as(z),
])  # fmt: skip
def test_a_norm_in_another_precision_belongs_to_the_map_before_it(cast):
    """As Keras runs BatchNorm in float32 in a network of float64."""

    def forward(net: Image, x: Tensor) -> Tensor:
        h = F.relu(cast(net.norm, net.one(x)))
        return F.relu(net.lone(F.max_pool2d(F.relu(net.two(h)), 2)))

    tape, own = (salience.record(Image(function), images()) for function in (forward, torch_own))
    for method in METHODS:  # as far as float32 rounds
        one, two = tape.explain(method, 1), own.explain(method, 1)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5 * float(two.abs().max()))


def test_a_second_reader_keeps_a_bias_apart():
    def form(net: Image, x: Tensor) -> Tensor:
        z = F.conv2d(x, net.one.weight, padding=1)
        return F.relu(net.two(F.relu(z + net.one.bias.view(-1, 1, 1)) + z))

    def apart(net: Image, x: Tensor) -> Tensor:
        z = F.conv2d(x, net.one.weight, padding=1)
        biased = torch.stack([z, net.one.bias.view(1, -1, 1, 1).expand_as(z)]).sum(0)
        return F.relu(net.two(F.relu(biased) + z))

    one, two = (salience.record(Image(f), images()) for f in (form, apart))
    alike(one, two, 1)


def test_what_was_computed_before_the_pass_undoes_nothing():
    """A cache of earlier calls, as LeViT keeps one of its biases, is a constant."""

    class Cached(Image):
        cache: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.cache is None:
                self.cache = self.lone.weight.exp().view(-1, 1, 1)
            h = F.relu(self.norm(self.one(x)))
            return self.last((F.relu(self.two(h)) * self.cache).mean((2, 3)))

    net = Cached(None)
    before = salience.record(net, images())
    net.cache = None
    net(images())  # by a call that records nothing
    after = salience.record(net, images())
    alike(after, before, 1)


@pytest.mark.parametrize("shaped", [
    lambda y, h: y.reshape_as(h), lambda y, h: y.view_as(h), lambda y, h: y.view(h.shape),
    lambda y, h: y.view(h.shape).type_as(h), lambda y, h: y.view(h.shape).expand_as(h),
])  # fmt: skip
def test_a_shape_is_read_without_a_value(shaped):
    """As LeViT normalises its tokens: the BatchNorm alone reads the linear map."""

    def normalized(net: Image, x: Tensor) -> Tensor:
        h = net.one(x)
        return F.relu(net.two(shaped(net.norm(h.flatten(2).unsqueeze(-1)), h)))

    plain = salience.record(Image(lambda net, x: F.relu(net.two(net.norm(net.one(x))))), images())
    alike(salience.record(Image(normalized), images()), plain, 1)


def test_a_scale_belongs_to_a_weight_that_is_expanded():
    """As an export decomposes a dense layer of tokens whose memory is not in one piece."""
    norm = Image(None).norm

    class Tokens(nn.Module):
        def __init__(self, product) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.one, self.two = nn.Linear(8, 4, bias=False), nn.Linear(4, 3)
            self.norm, self.product = norm, product
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            z = self.product(x.flatten(1, 2), self.one.weight.T)
            z = z * self.norm.weight + self.norm.bias
            return self.two(F.relu(z)).mean(1)

    plain = salience.record(Tokens(torch.matmul), images())
    expanded = Tokens(lambda z, weight: torch.bmm(z, weight.expand(len(z), -1, -1)))
    alike(salience.record(expanded, images()), plain, 1)


@pytest.mark.parametrize("masked", [
    lambda z: z / 4 + z.new_zeros(z.shape[-1]),
    lambda z: z / 4 - torch.zeros_like(z),
    lambda z: torch.zeros((), dtype=z.dtype) + z / 4,
])  # fmt: skip
def test_a_mask_of_zeros_shifts_nothing(masked):
    """As an export spells attention whose mask masks nothing: z / 4 stays the last of the map."""

    class Scored(nn.Module):
        def __init__(self, function) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.queries, self.last = nn.Linear(8, 5), nn.Linear(5, 3)
            self.function = function
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            scores = self.function(self.queries(x.flatten(1, 2)))
            return self.last(torch.softmax(scores, 1))[:, 1]

    own = salience.record(Scored(lambda z: z / 4), images())
    alike(salience.record(Scored(masked), images()), own, 1)


def kept_sum(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True)


@pytest.mark.parametrize("spelled", [
    lambda z: (e := torch.exp(0.4 * z)) / kept_sum(e),
    lambda z: (e := torch.exp(0.4 * z)) * (1 / kept_sum(e)),
    lambda z: (e := (0.4 * z - 0.4 * z.amax(-1, keepdim=True)).exp()) / kept_sum(e),
])  # fmt: skip
def test_a_softmax_in_its_parts(spelled):
    class Attention(nn.Module):
        def __init__(self, function) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.q, self.k, self.v, self.last = (nn.Linear(8, 8) for _ in range(4))
            self.function = function
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            x = x[:, 0]
            return self.last(self.function(self.q(x) @ self.k(x).mT) @ self.v(x))[:, 1]

    own = salience.record(Attention(lambda z: torch.softmax(0.4 * z, -1)), images())
    alike(salience.record(Attention(spelled), images()), own, 1)


def test_one_bias_in_maps_of_different_dimensions():
    """As ONNX files hold constants that are equal but once."""

    class Tied(nn.Module):
        def __init__(self, copied: bool) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.one, self.two = nn.Conv1d(8, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
            self.last = nn.Linear(4, 3)
            bias = self.one.bias
            self.two.bias = nn.Parameter(bias.detach().clone()) if copied else bias
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.one(x[:, 0])).mean(-1) + F.relu(self.two(x)).mean((2, 3)))

    alike(salience.record(Tied(False), images()), salience.record(Tied(True), images()), 1)
