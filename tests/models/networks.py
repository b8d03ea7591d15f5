"""Networks for tests: built without values or in one program, how far they see, and whether remat changes them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from celltrack_jax import models
from celltrack_jax.models.functional import FunctionalModel


def abstract(name, **settings):
    """The module without values: enough for its shape properties, and nothing compiles."""
    return nnx.eval_shape(lambda: models.build(name, nnx.Rngs(0), **settings))


def module(name, **settings):
    """The module, its parameters made in one program: op by op, a test would compile hundreds."""
    values = jax.jit(lambda: nnx.state(models.build(name, nnx.Rngs(0), **settings)))()
    return nnx.merge(nnx.graphdef(abstract(name, **settings)), values)


def functional(name, **settings):
    """The module as two functions."""
    return FunctionalModel(lambda rngs: models.build(name, rngs, **settings))


def image(*shape, seed=0):
    """Normal noise, float32."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def count(network):
    """Learned numbers of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def shapes(name, x, **settings):
    """Shapes and dtypes of the outputs."""
    return jax.eval_shape(lambda x: models.build(name, nnx.Rngs(0), **settings)(x), x)  # noqa: PLW0108


def reach(network, head):
    """Per axis, how far the farthest input pixel is whose gradient is not 0, over the output pixels of one stride.

    A maximum sees one pixel of its window: the union over images sees what can be seen.
    """
    radius, stride = network.receptive_radius, network.stride
    size = [(2 * -(-(r + 1) // s) + 1) * s for r, s in zip(radius, stride, strict=True)]
    corner = [(n - s) // 2 for n, s in zip(size, stride, strict=True)]
    see = jax.jit(jax.grad(lambda x, pixel: network(x)[head][0, *pixel].sum()))
    images = [image(1, *size, 1, seed=seed) for seed in range(6)]
    found = []
    for axis in range(len(size)):
        farthest = 0
        for offset in range(stride[axis]):
            pixel = [c + offset * (i == axis) for i, c in enumerate(corner)]
            seen = np.any([np.asarray(see(x, jnp.array(pixel))) for x in images], 0)[0, ..., 0]
            where = np.flatnonzero(seen.any(tuple(i for i in range(len(size)) if i != axis)))
            farthest = max(farthest, abs(where - pixel[axis]).max())
        found.append(farthest)
    return tuple(found)


def assert_remat_changes_nothing(name, x, **settings):
    """Loss, gradients and statistics with and without; every level's blocks are computed again."""
    levels = len(settings["widths"])
    plain, again = (functional(name, **settings | dict(remat=(remat,) * levels)) for remat in (False, True))
    variables = jax.jit(plain.init)(jax.random.key(0))

    def trained(model):
        def loss(params):
            out, stats = model.apply(variables._replace(params=params), x, train=True)
            return sum(jnp.mean(jnp.sin(3 * y)) for y in out.values()), stats

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), trained(again), trained(plain)
    )
    equations = jax.make_jaxpr(lambda v: again.apply(v, x, train=True))(variables).eqns
    names = [equation.primitive.name for equation in equations]
    assert sum(name in ("checkpoint", "remat", "remat2") for name in names) == 2 * levels - 1
