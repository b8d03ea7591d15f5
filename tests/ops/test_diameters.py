import numpy as np
import pytest

from celltrack_jax.ops import diameters


def test_the_diameter_of_a_disc_and_of_a_ball():
    for axes in (2, 3):
        index = np.stack(np.meshgrid(*[np.arange(32)] * axes, indexing="ij"), -1) - 15.5
        labels = (np.linalg.norm(index, axis=-1) < 10).astype(np.int32)
        np.testing.assert_allclose(diameters.median_diameter(labels), 20, rtol=0.01)


def test_it_is_the_published_formula_of_the_median_cell():
    labels = np.repeat([0, 7, 9, 2, -1], [5, 100, 400, 900, 50])
    np.testing.assert_allclose(diameters.median_diameter(labels[None]), 20 / (np.sqrt(np.pi) / 2))


def test_small_cells_have_the_least_diameter_and_no_cell_has_none():
    assert diameters.median_diameter(np.array([[0, 1, 2]])) == 5
    assert diameters.median_diameter(np.zeros((4, 4), int)) == 0


def test_the_fit_is_where_the_penalised_square_error_is_least():
    rng = np.random.default_rng(0)
    styles = rng.normal(size=(40, 6))
    true = 0.1 * rng.normal(size=6)
    logs = styles @ true + 0.3 + 0.05 * rng.normal(size=40)
    model = diameters.fit(styles, 30 * np.exp(logs))

    def cost(weights, mean):
        off = (styles - styles.mean(0)) @ weights + mean - logs
        return (off**2).sum() + (weights**2).sum()

    best = cost(model.weights, model.mean_log)
    for _ in range(50):
        step = 1e-3 * rng.normal(size=7)
        assert cost(model.weights + step[:6], model.mean_log + step[6]) > best
    np.testing.assert_allclose(np.log(model.diameters(styles) / 30), logs, atol=0.3)
    exact = diameters.fit(styles, 30 * np.exp(styles @ true), penalty=0.0)
    np.testing.assert_allclose(exact.diameters(styles), 30 * np.exp(styles @ true), rtol=1e-6)


def test_fewer_images_than_features_are_fitted():
    rng = np.random.default_rng(1)
    styles = rng.normal(size=(3, 16))
    model = diameters.fit(styles, np.array([10.0, 30.0, 60.0]))
    assert np.all(np.diff(model.diameters(styles)) > 0)


def test_nothing_is_told_beyond_what_was_fitted():
    styles = np.linspace(-1, 1, 9)[:, None]
    model = diameters.fit(styles, 20 * np.exp(styles[:, 0]), penalty=0.0)
    found = model.diameters(np.array([[-9.0], [0.5], [9.0]]))
    np.testing.assert_allclose(found, 20 * np.exp([-1, 0.5, 1]), rtol=1e-6)
    np.testing.assert_allclose(model.within(np.array([1.0, 30.0, 1e3])), [20 / np.e, 30, 20 * np.e])


def test_images_without_cells_are_refused():
    with pytest.raises(ValueError, match="without cells"):
        diameters.fit(np.zeros((2, 3)), np.array([20.0, 0.0]))
    with pytest.raises(ValueError, match="0 images"):
        diameters.fit(np.zeros((0, 3)), np.zeros(0))
