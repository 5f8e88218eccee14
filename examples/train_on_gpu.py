"""Trains DMFormer classifiers on one GPU with PyTorch alone, all its convolutions matrix products.

    python examples/train_on_gpu.py jobs.json --parts parts --output trained

`gpu_files.py` writes what this reads (images, weights, a teacher) and makes presets of what it
writes, so the machine with the GPU needs torch, NumPy and Pillow only. Each job of the file is a
training, see `DEFAULTS`. How it is fast:

- Feature maps are (channels, images, positions): a 1x1 convolution is one matrix product, and
  a depthwise one, of any kernel and dilation, a product per channel with a matrix of positions.
- The images stay on the GPU, where they are cropped, changed and shown to the teacher, too.
- Blocks are compiled, and the whole update is one CUDA graph.

The learning rate follows the clock: a job takes the seconds that it is given.
"""

import argparse
import functools
import io
import json
import math
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

LEVELS = ((3, 1), (5, 2), (7, 3))
TAPS = 49  # of the largest kernel; 49 itself stands for none
COLUMNS = 56  # a multiple of eight, as tensor cores want it
EPSILON, MOMENTUM = 1e-5, 0.9  # of BatchNorm
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
DEFAULTS = {
    "start": None,  # the name of an earlier job, or a file of weights beside the parts
    "data": "mix",  # a folder of parts
    "seconds": 60,
    "steps": None,  # updates, in place of seconds
    "batch_size": 1024,
    "image_size": 128,
    "teacher_size": 160,
    "learning_rate": 5e-3,
    "warmup": 0.03,  # of the seconds
    "weight_decay": 0.05,
    "smoothing": 0.1,
    "smallest_crop": 0.3,
    "jitter": 0.3,
    "degraded": 0.25,  # of the images are shown with a half and a quarter of the pixels
    "labels_weight": 1.0,
    "logits_weight": 1.0,  # of the teacher's 1,000 classes
    "features_weight": 10.0,
    "taught_by": None,  # an earlier job or a file, as the start, whose logits are learned, too
    "taught_weight": 1.0,
    "images": None,  # how many of the data are trained on, None for all
    "parts": 1,  # that must have come before the start
    "classes": None,  # of a new head, None for that of the start
    "measured_on": None,  # a folder of parts, at the end
    "seed": 0,
}


# --- The network -----------------------------------------------------------------------------


@functools.cache
def tables(size, device):
    """For maps of size x size: which tap connects two positions, and the same as 0 and 1."""
    place = torch.arange(size * size)
    down = place[:, None] // size - place[None] // size
    right = place[:, None] % size - place[None] % size
    index = []
    for kernel, dilation in LEVELS:
        row, column = down // dilation + kernel // 2, right // dilation + kernel // 2
        hit = (down % dilation == 0) & (right % dilation == 0)
        hit &= (row >= 0) & (row < kernel) & (column >= 0) & (column < kernel)
        index.append(torch.where(hit, row * kernel + column, TAPS).flatten())
    index = torch.stack(index).to(device)
    ones = torch.stack([functional.one_hot(one, COLUMNS).to(torch.bfloat16) for one in index])
    return index, ones


class Depthwise(torch.autograd.Function):
    """Depthwise convolutions of several levels: x (channels, images, positions) times, for each
    channel, a matrix (positions, positions) of the kernel's taps.
    """

    @staticmethod
    def forward(ctx, x, taps, index, ones):
        ctx.save_for_backward(x, taps, index, ones)
        return torch.bmm(x, Depthwise.matrices(taps, index))

    @staticmethod
    def matrices(taps, index):
        levels, channels, _ = taps.shape
        places = index[:, None].expand(levels, channels, index.shape[1])
        size = math.isqrt(index.shape[1])
        return taps.gather(2, places).view(levels * channels, size, size)

    @staticmethod
    def backward(ctx, upstream):
        x, taps, index, ones = ctx.saved_tensors
        levels, channels, _ = taps.shape
        to_x = torch.bmm(upstream, Depthwise.matrices(taps, index).transpose(1, 2))
        to_matrices = torch.bmm(x.transpose(1, 2), upstream)
        to_matrices = to_matrices.view(levels, channels, -1)
        pieces = math.gcd(to_matrices.shape[2], 256)
        to_taps = []
        for level in range(levels):
            own = to_matrices[level].view(channels, pieces, -1).transpose(0, 1)
            parts = torch.bmm(own, ones[level].to(own.dtype).view(pieces, -1, COLUMNS))
            to_taps.append(parts.float().sum(0))
        return to_x, torch.stack(to_taps).to(taps.dtype), None, None


def dense(x, kernel, bias=None):
    """A 1x1 convolution of (channels, images, positions)."""
    kernel = kernel.reshape(-1, kernel.shape[-1]).to(x.dtype)
    product = torch.mm(kernel.t(), x.reshape(x.shape[0], -1))
    if bias is not None:
        product = product + bias.to(x.dtype)[:, None]
    return product.view(-1, *x.shape[1:])


def norm(x, weights, stats):
    """BatchNorm; appends the batch's statistics to a list, or takes the running ones."""
    gamma, beta, mean, variance = weights
    axes = tuple(range(1, x.ndim))
    full = x.float()
    if stats is not None:
        variance, mean = torch.var_mean(full, axes, correction=0)
        stats += [mean, variance]
    shape = (-1,) + (1,) * (x.ndim - 1)
    scale = gamma * torch.rsqrt(variance + EPSILON)
    return (full * scale.view(shape) + (beta - mean * scale).view(shape)).to(x.dtype)


def padded(kernel):
    """The taps of a depthwise kernel, and zeros: (channels, COLUMNS)."""
    taps = kernel.flatten(0, 1)[..., 0].t()
    return functional.pad(taps, (0, COLUMNS - taps.shape[1]))


def block(x, w, index, ones, train):
    """A DMFormer block of (channels, images, positions); w: its weights in Keras's order."""
    stats = [] if train else None
    (expand, one, two, three, fuse, fuse_bias, project, project_bias) = w[4:8] + w[12:16]
    reduce, reduce_bias, restore, restore_bias = w[16:20]
    h = norm(x, w[0:4], stats)
    taps = torch.stack([padded(kernel) for kernel in (one, two, three)]).to(x.dtype)
    mixed = Depthwise.apply(dense(h, expand), taps, index, ones)
    mixed = h + dense(norm(mixed, w[8:12], stats).relu(), fuse, fuse_bias)
    pooled = h.float().mean(2)
    gate = (reduce.t() @ pooled + reduce_bias[:, None]).relu()
    gate = (restore.t() @ gate + restore_bias[:, None]).sigmoid()
    x = x + dense(mixed, project, project_bias) * gate.to(x.dtype)[:, :, None]
    h = norm(x, w[20:24], stats)
    h = functional.gelu(dense(h, w[24], w[25]))
    return x + dense(h, w[26], w[27]), stats


def stem(x, w, train):
    """Images (images, 3, height, width) in -1..1 to maps of a quarter of the size."""
    stats = [] if train else None
    first, second, third = (kernel.to(x.dtype).permute(3, 2, 0, 1) for kernel in w[0::5])
    x = functional.conv2d(functional.pad(x, (2, 3, 2, 3)), first, stride=2).transpose(0, 1)
    x = norm(x, w[1:5], stats).relu()
    x = functional.conv2d(x.transpose(0, 1), second, padding=1).transpose(0, 1)
    x = norm(x, w[6:10], stats).relu()
    x = functional.conv2d(x.transpose(0, 1), third, stride=2).transpose(0, 1)
    return norm(x, w[11:15], stats).flatten(2), stats


def downsample(x, w, size, train):
    """The 2x2 convolution of stride 2 before a stage, of maps of size x size."""
    stats = [] if train else None
    channels, images, _ = x.shape
    x = x.view(channels, images, size // 2, 2, size // 2, 2).permute(3, 5, 0, 1, 2, 4)
    x = x.reshape(4 * channels, images, -1)
    return norm(dense(x, w[0]), w[1:5], stats), stats


def pooled(x, w, train):
    """The head's features (images, channels)."""
    stats = [] if train else None
    return norm(x.float(), w, stats).mean(2).t(), stats


FUNCTIONS = {"stem": stem, "downsample": downsample, "block": block, "pooled": pooled}


def group_of(name):
    """The function that takes a weight of this Keras path, and the place in the network."""
    top = name.split("/")[0]
    if top.startswith("stem"):
        return "stem", ""
    if "downsample" in top:
        return "downsample", top.split("_")[0]
    return ("pooled", "") if top == "head" else ("block", top)


class Network:
    """A DMFormer classifier with the weights {Keras path: tensor}."""

    def __init__(self, weights, device, dtype, compiled):
        self.weights = {name: value.to(device) for name, value in weights.items()}
        self.device, self.dtype = device, dtype
        self.functions = dict(FUNCTIONS)
        if compiled:
            self.functions = {
                name: torch.compile(one, dynamic=False, fullgraph=True)
                for name, one in FUNCTIONS.items()
            }
        self.groups = {}  # {(function, place): names of its weights}
        for name in weights:
            self.groups.setdefault(group_of(name), []).append(name)

    def trained(self):
        """The names of the weights that the optimizer changes."""
        return [name for name in self.weights if "/moving_" not in name]

    def __call__(self, images, train=False, plain=False):
        """Images in 0..255 to (logits, pooled features); with train, BatchNorm by the batch."""
        functions = FUNCTIONS if plain else self.functions
        x = (images / 127.5 - 1).to(self.dtype)
        size = images.shape[-1] // 4
        for (kind, _), names in self.groups.items():
            w = [self.weights[name] for name in names]
            if kind == "stem":
                x, stats = functions[kind](x, w, train)
            elif kind == "downsample":
                x, stats = functions[kind](x, w, size, train)
                size //= 2
            elif kind == "block":
                x, stats = functions[kind](x, w, *tables(size, self.device), train)
            else:
                x, stats = functions[kind](x, w[:4], train)
                logits = x @ w[4] + w[5]
            if train:
                self._move_statistics(names, stats)
        return logits, x

    def _move_statistics(self, names, stats):
        moving = [self.weights[name] for name in names if "/moving_" in name]
        with torch.no_grad():
            torch._foreach_lerp_(moving, [s.detach() for s in stats], 1 - MOMENTUM)


class Teacher:
    """A convolutional network of folded convolutions: see `gpu_files.py`."""

    def __init__(self, path, device, dtype, compiled):
        arrays = np.load(path)
        self.layers = json.loads(str(arrays["layers"]))
        self.weights = [
            torch.tensor(arrays[f"w{number}"], dtype=dtype, device=device)
            .contiguous(memory_format=torch.channels_last)
            for number in range(len(self.layers))
        ]  # fmt: skip
        self.biases = [
            torch.tensor(arrays[f"b{number}"], dtype=dtype, device=device)
            for number in range(len(self.layers))
        ]
        self.head = [torch.tensor(arrays[k], device=device) for k in ("head", "head_bias")]
        self.dtype = dtype
        self.run = (
            torch.compile(self._run, dynamic=False, fullgraph=True) if compiled else self._run
        )

    def __call__(self, images):
        """Images in 0..255 to (logits, pooled features)."""
        x = ((images - 127) / 128).to(self.dtype).contiguous(memory_format=torch.channels_last)
        features = self.run(x)
        return features @ self.head[0].t() + self.head[1], features

    def _run(self, x):
        kept = None
        for layer, weight, bias in zip(self.layers, self.weights, self.biases, strict=True):
            if layer["begins"]:
                kept = x
            kernel, stride = weight.shape[-1], layer["stride"]
            total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
            before, after = total // 2, total - total // 2
            if before != after:
                x = functional.pad(x, (before, after) * 2)
                before = 0
            x = functional.conv2d(x, weight, bias, stride, before, groups=layer["groups"])
            if layer["clipped"]:
                x = x.clamp(0, 6)
            if layer["adds"]:
                x = x + kept
        return x.float().mean((2, 3))


# --- The images ------------------------------------------------------------------------------


def decode(task):
    """Decodes one image of a part into the shared array; in a process of the pool."""
    from PIL import Image

    path, first, length, shared, shape, row = task
    with open(path, "rb") as file:
        file.seek(first)
        image = Image.open(io.BytesIO(file.read(length))).convert("RGB")
    if image.size != (shape[3], shape[2]):
        image = image.resize((shape[3], shape[2]), Image.Resampling.BILINEAR)
    array = np.memmap(shared, np.uint8, "r+", shape=shape)
    array[row] = np.asarray(image).transpose(2, 0, 1)


class Images:
    """Images on the GPU, of parts that may still come while they are trained on."""

    def __init__(self, folder, size, most, pool, device):
        self.folder, self.pool, self.device = Path(folder), pool, device
        self.shape = (most, 3, size, size)
        memory = Path("/dev/shm")
        # Deleted with this object, also where a training fails.
        self.file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            dir=memory if memory.is_dir() else None
        )
        self.shared = self.file.name
        np.memmap(self.shared, np.uint8, "w+", shape=self.shape)
        self.pixels = torch.empty(self.shape, dtype=torch.uint8, device=device)
        self.labels = torch.empty(most, dtype=torch.int64, device=device)
        self.pending, self.taken, self.count, self.given = [], set(), 0, 0

    def look(self):
        """Begins to decode new parts, and takes those that are decoded to the GPU."""
        for table in sorted(self.folder.glob("*.npy")):
            if table.name in self.taken:
                continue
            self.taken.add(table.name)
            rows = np.load(table)[: max(0, self.shape[0] - self.given)]
            tasks = [
                (str(table.with_suffix(".bin")), int(first), int(length), self.shared, self.shape,
                 self.given + place)
                for place, (first, length, *_) in enumerate(rows)
            ]  # fmt: skip
            result = self.pool.map_async(decode, tasks, chunksize=64)
            self.pending.append((result, self.given, rows[:, 2]))
            self.given += len(rows)
        while self.pending and self.pending[0][0].ready():
            result, first, labels = self.pending.pop(0)
            result.get()
            array = np.memmap(self.shared, np.uint8, "r", shape=self.shape)
            last = first + len(labels)
            self.pixels[first:last] = torch.from_numpy(np.array(array[first:last])).to(self.device)
            self.labels[first:last] = torch.from_numpy(labels).to(self.device)
            self.count = last

    def wait(self, parts):
        while len(self.taken) < parts or self.pending:
            self.look()
            time.sleep(0.2)


def crop_grid(count, smallest, device):
    """Random crops, and half of them mirrored: their centers and half sizes in -1..1."""
    area = smallest + (1 - smallest) * torch.rand(count, device=device)
    aspect = torch.exp((torch.rand(count, device=device) * 2 - 1) * math.log(4 / 3))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x = (torch.rand(count, device=device) * 2 - 1) * (1 - width)
    y = (torch.rand(count, device=device) * 2 - 1) * (1 - height)
    mirrored = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    return x, y, width * mirrored, height


def cropped(pixels, crop, size):
    """The crops of float images (images, 3, height, width), at a size."""
    x, y, width, height = crop
    steps = (torch.arange(size, device=pixels.device) * 2 + 1) / size - 1
    across = (x[:, None] + width[:, None] * steps)[:, None, :].expand(-1, size, -1)
    down = (y[:, None] + height[:, None] * steps)[:, :, None].expand(-1, -1, size)
    grid = torch.stack([across, down], -1)
    return functional.grid_sample(pixels, grid, "bilinear", "reflection", align_corners=False)


def colored(x, factors):
    """Brightness, contrast and saturation of images in 0..255 times factors (3, images)."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors)
    x = x * brightness
    grey = x.mean(1, keepdim=True)
    x = grey + saturation * (x - grey)
    middle = x.mean((1, 2, 3), keepdim=True)
    return (middle + contrast * (x - middle)).clamp(0, 255)


def degrade(x, share):
    """The first of the images, half of that share each, by a half and a quarter of the pixels."""
    count = int(len(x) * share / 2)
    if not count:
        return x
    parts = [x[:count], x[count : 2 * count], x[2 * count :]]
    for place, factor in enumerate((2, 4)):
        small = functional.avg_pool2d(parts[place], factor)
        parts[place] = functional.interpolate(small, size=x.shape[-2:], mode="bilinear")
    return torch.cat(parts)


# --- The optimizer ---------------------------------------------------------------------------


class Optimizer:
    """Muon for the convolutions of the stages, AdamW for the rest, as `--optimizer muon`."""

    def __init__(self, weights, weight_decay, clip=1.0):
        self.decay, self.clip = weight_decay, clip
        device = next(iter(weights.values())).device
        self.rate = torch.zeros((), device=device)
        self.steps = torch.zeros((), device=device)
        self.weights = list(weights.values())
        self.decayed = [w for name, w in weights.items() if name.endswith("kernel")]
        self.adam, self.shapes = [], {}  # places of the weights; those of Muon by their shapes
        for place, (name, weight) in enumerate(weights.items()):
            # The last axis of a depthwise kernel has one entry.
            if name.startswith("stage") and weight.ndim == 4 and weight.shape[-1] > 1:
                self.shapes.setdefault(tuple(weight.shape), []).append(place)
            else:
                self.adam.append(place)
        self.momentum = [torch.zeros_like(w) for w in self.weights]
        self.squares = [torch.zeros_like(self.weights[place]) for place in self.adam]

    @torch.no_grad()
    def step(self, gradients):
        self.steps += 1
        length = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (self.clip / (length + 1e-9)).clamp(max=1))
        torch._foreach_mul_(self.decayed, 1 - self.rate * self.decay)
        self._adam([gradients[place] for place in self.adam])
        for places in self.shapes.values():
            self._muon(places, torch.stack([gradients[place] for place in places]))

    def _adam(self, gradients):
        weights = [self.weights[place] for place in self.adam]
        momentum = [self.momentum[place] for place in self.adam]
        torch._foreach_lerp_(momentum, gradients, 0.1)
        torch._foreach_mul_(self.squares, 0.999)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 0.001)
        rate = self.rate * (1 - 0.999**self.steps).sqrt() / (1 - 0.9**self.steps)
        divisors = torch._foreach_sqrt(self.squares)
        torch._foreach_add_(divisors, 1e-7)
        updates = torch._foreach_div(momentum, divisors)
        torch._foreach_mul_(updates, rate)
        torch._foreach_sub_(weights, updates)

    def _muon(self, places, gradients):
        shape = gradients.shape[1:]
        rows, columns = shape[:-1].numel(), shape[-1]
        momentum = torch.stack([self.momentum[place] for place in places]) * 0.95 + gradients
        torch._foreach_copy_([self.momentum[place] for place in places], list(momentum.unbind()))
        x = (gradients + 0.95 * momentum).view(-1, rows, columns)
        x = orthogonalized(x) * (0.2 * math.sqrt(max(rows, columns)) * self.rate)
        torch._foreach_sub_([self.weights[place] for place in places],
                            [one.view(shape) for one in x.unbind()])  # fmt: skip


def orthogonalized(x):
    """Matrices with the singular vectors of x (matrices, rows, columns), singular values near 1."""
    first, second, third = NEWTON_SCHULZ
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = first * x + (second * gram + third * (gram @ gram)) @ x
    return x.transpose(1, 2) if tall else x


# --- A training ------------------------------------------------------------------------------


class Training:
    """One job."""

    def __init__(self, job, network, images, teacher, other, device, compiled):
        self.job, self.network, self.images = job, network, images
        self.teacher, self.other, self.device = teacher, other, device
        self.color = torch.compile(colored, dynamic=False) if compiled else colored
        width = network.weights["head/head_norm/gamma"].shape[0]
        self.extra = {}
        if teacher is not None:
            classes, features = teacher.head[0].shape
            for name, units in (("logits", classes), ("features", features)):
                kernel = 0.02 * torch.randn(width, units, device=device)
                self.extra |= {f"{name}/kernel": kernel,
                               f"{name}/bias": torch.zeros(units, device=device)}  # fmt: skip
        self.trained = {n: network.weights[n] for n in network.trained()} | self.extra
        for weight in self.trained.values():
            weight.requires_grad_(True)
        self.optimizer = Optimizer(self.trained, job["weight_decay"])
        self.index = torch.zeros(job["batch_size"], dtype=torch.int64, device=device)
        self.totals = torch.zeros(5, device=device)
        self.scale = None

    def batch(self):
        """The student's and the teacher's view of the chosen images, and their labels."""
        job, count = self.job, len(self.index)
        with torch.no_grad():
            pixels = self.images.pixels[self.index].float()
            crop = crop_grid(count, job["smallest_crop"], self.device)
            jitter = 1 + job["jitter"] * (torch.rand(3, count, device=self.device) * 2 - 1)
            own = self.color(cropped(pixels, crop, job["image_size"]), jitter)
            shown = None
            if self.teacher is not None:
                shown = self.color(cropped(pixels, crop, job["teacher_size"]), jitter)
            return own, shown, self.images.labels[self.index]

    def update(self):
        job = self.job
        own, shown, labels = self.batch()
        logits, features = self.network(degrade(own, job["degraded"]), train=True)
        by_labels = functional.cross_entropy(logits, labels, label_smoothing=job["smoothing"])
        loss = job["labels_weight"] * by_labels
        by_logits = by_features = by_other = torch.zeros((), device=self.device)
        if self.teacher is not None:
            with torch.no_grad():
                answers, scores = self.teacher(shown)
                scores = ((scores - self.scale[0]) / self.scale[1]).clamp(-5, 5)
            guess = features @ self.extra["logits/kernel"] + self.extra["logits/bias"]
            by_logits = divergence(answers, guess)
            guess = features @ self.extra["features/kernel"] + self.extra["features/bias"]
            by_features = functional.mse_loss(guess, scores)
            loss = loss + job["logits_weight"] * by_logits + job["features_weight"] * by_features
        if self.other is not None:
            with torch.no_grad():
                answers, _ = self.other(own)
            by_other = divergence(answers, logits)
            loss = loss + job["taught_weight"] * by_other
        gradients = list(torch.autograd.grad(loss, list(self.trained.values())))
        self.optimizer.step(gradients)
        right = (logits.detach().argmax(1) == labels).float().mean()
        self.totals += torch.stack([by_labels, by_logits, by_features, by_other, right]).detach()

    def run(self, log):
        """Trains for the job's seconds; returns what is known of it."""
        job = self.job
        torch.manual_seed(job["seed"])
        order, place = None, 0
        most = job["images"]

        def choose():
            nonlocal order, place
            if order is None or place + len(self.index) > len(order):
                self.images.look()
                count = self.images.count if most is None else min(most, self.images.count)
                if count < len(self.index):
                    raise SystemExit(
                        f"{job['name']} has {count} images and batches of {len(self.index)}; give "
                        "it a smaller batch_size, or more parts to wait for."
                    )
                order, place = torch.randperm(count, device=self.device), 0
            self.index.copy_(order[place : place + len(self.index)])
            place += len(self.index)

        if self.teacher is not None:
            self._measure_features(choose)
        replay = self._captured(choose)
        start = time.perf_counter()
        done, said, before = 0, start, 0
        while True:
            now = time.perf_counter()
            share = done / job["steps"] if job["steps"] else (now - start) / job["seconds"]
            if share >= 1:
                break
            for _ in range(10):
                choose()
                self.optimizer.rate.fill_(job["learning_rate"] * rate_at(share, job["warmup"]))
                replay()
                done += 1
            synchronize(self.device)
            if now - said > 10:
                means = (self.totals / max(done, 1)).tolist()
                rate = (done - before) * len(self.index) / (now - said)
                before = done
                log(f"{job['name']}: {done} updates, {rate:.0f} "
                    f"images/s, {self.images.count} images, means so far "
                    f"{[round(mean, 3) for mean in means]}")  # fmt: skip
                said = now
        seconds = time.perf_counter() - start
        return {"updates": done, "images": done * len(self.index), "seconds": round(seconds, 1),
                "image_count": self.images.count}  # fmt: skip

    def _measure_features(self, choose):
        features = []
        for _ in range(4):
            choose()
            with torch.no_grad():
                features.append(self.teacher(self.batch()[1])[1])
        features = torch.cat(features)
        self.scale = features.mean(0), features.std(0).clamp(min=1e-6)

    def _captured(self, choose):
        """The update as one CUDA graph, tried before on some batches with a rate of 0."""
        if self.device.type != "cuda":
            return self.update
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                choose()
                self.update()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.update()
        for state in (*self.optimizer.momentum, *self.optimizer.squares, self.totals,
                      self.optimizer.steps):  # fmt: skip
            state.zero_()
        return graph.replay


def divergence(answers, guess):
    return functional.kl_div(guess.log_softmax(1), answers.log_softmax(1), reduction="batchmean",
                    log_target=True)  # fmt: skip


def rate_at(share, warmup):
    """The factor of the learning rate: linear, then a half cosine."""
    if share < warmup:
        return share / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1, (share - warmup) / (1 - warmup)))


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def top1(network, images, size):
    """The share of images whose class the network finds."""
    right = 0
    for first in range(0, images.count, 512):
        pixels = images.pixels[first : min(first + 512, images.count)].float()
        if pixels.shape[-1] != size:
            pixels = functional.interpolate(
                pixels, size=(size, size), mode="bilinear", antialias=True
            )
        logits, _ = network(pixels, plain=True)
        right += (logits.argmax(1) == images.labels[first : first + len(pixels)]).sum().item()
    return right / images.count


# --- All of it -------------------------------------------------------------------------------


def read_weights(path):
    with np.load(path) as arrays:
        return {name: torch.tensor(arrays[name], dtype=torch.float32) for name in arrays.files}


def write_weights(weights, path):
    """In half precision but for the norms, as presets have them."""
    arrays = {
        name: value.detach().cpu().numpy().astype("float16" if value.ndim > 1 else "float32")
        for name, value in weights.items()
    }
    write_whole(path, lambda file: np.savez(file, **arrays))


def write_whole(path, write):
    """Writes a file beside and renames it, so that no half of it is ever fetched."""
    beside = path.with_name(f"{path.name}.part")
    with beside.open("wb") as file:
        write(file)
    beside.replace(path)


def run_jobs(settings, parts, output, device, dtype, compiled, pool, log):
    """Runs every job of a file; writes its weights, and its figures, to the output folder."""
    for given in settings["jobs"]:
        known = {*DEFAULTS, "name"}
        if unknown := sorted({*given, *settings.get("common", {})} - known):
            raise SystemExit(f"Jobs have no {', '.join(unknown)}; known are {sorted(known)}.")

    @functools.cache
    def source(name):
        size, most = settings["data"][name]
        return Images(parts / name, size, most, pool, device)

    teacher, finished = None, {}
    for given in settings["jobs"]:
        job = {**DEFAULTS, **settings.get("common", {}), **given}
        log(f"{job['name']}: {json.dumps(job)}")
        torch.manual_seed(job["seed"])
        images = source(job["data"])
        images.look()
        needs_teacher = job["logits_weight"] or job["features_weight"]
        if needs_teacher and teacher is None:
            teacher = Teacher(parts / settings["teacher"], device, dtype, compiled)
        weights = {
            name: value.clone()
            for name, value in _weights_of(job["start"], finished, parts).items()
        }
        if job["classes"]:
            width = weights["head/logits/kernel"].shape[0]
            weights["head/logits/kernel"] = 0.02 * torch.randn(width, job["classes"])
            weights["head/logits/bias"] = torch.zeros(job["classes"])
        network = Network(weights, device, dtype, compiled)
        other = None
        if job["taught_by"]:
            weights_of_other = _weights_of(job["taught_by"], finished, parts)
            other = Network(weights_of_other, device, dtype, compiled)
        images.wait(job["parts"])
        begun = time.perf_counter()
        training = Training(
            job, network, images, teacher if needs_teacher else None, other, device, compiled
        )
        found = training.run(log)
        found["preparation"] = round(time.perf_counter() - begun - found["seconds"], 1)
        weights = {name: value.detach() for name, value in network.weights.items()}
        finished[job["name"]] = weights
        write_weights(weights, output / f"{job['name']}.npz")
        if job["measured_on"]:
            measured = source(job["measured_on"])
            measured.wait(1)
            found["top1"] = top1(network, measured, job["image_size"])
        report = json.dumps({**job, **found}, indent=1).encode()
        write_whole(output / f"{job['name']}.json", lambda file, text=report: file.write(text))
        log(f"{job['name']}: {json.dumps(found)}")
        del training, network, other
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _weights_of(name, finished, parts):
    return finished[name] if name in finished else read_weights(parts / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", type=Path, help="JSON, see gpu_files.py")
    parser.add_argument("--parts", type=Path, required=True, help="folder of gpu_files.py")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--plain", action="store_true", help="without torch.compile")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()

    def log(text):
        with open(args.output / "log.txt", "a") as file:
            file.write(f"{time.perf_counter() - begun:.1f} {text}\n")

    # Before CUDA begins, which forked processes must not touch.
    pool = multiprocessing.get_context("fork").Pool()
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    settings = json.loads(args.jobs.read_text())
    run_jobs(settings, args.parts, args.output, device, dtype, not args.plain, pool, log)
    log("finished")


if __name__ == "__main__":
    main()
