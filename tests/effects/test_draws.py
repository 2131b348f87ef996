"""The random numbers: exact distributions, independence, and determinism. Fixed seeds; every bound is for alpha = 1e-5."""

import math

import torch

from mho.effects import draws

Z = 4.42  # two-sided 1e-5 quantile of the normal distribution
N_ROWS, N_COLUMNS = 2048, 1024
N = N_ROWS * N_COLUMNS  # 2.1 million


def rows(n, *parts):
    return draws.rows_of(draws.key("test", *parts), torch.arange(n, dtype=torch.int32))


def normals(*parts):
    return draws.normal(rows(N_ROWS, *parts), N_COLUMNS).double()


def test_normals_have_the_first_four_moments_of_a_gaussian():
    z = normals("moments")
    # standard errors of the sample moments of n normal numbers: 1, 2, 15, 96 are the variances of z, z^2, z^3, z^4
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - expected) < Z * math.sqrt(variance / N)


def test_normals_follow_the_normal_distribution_function():
    z = normals("ks").flatten().sort().values
    exact = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    empirical = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    kolmogorov = math.sqrt(-0.5 * math.log(1e-5 / 2) / N)
    assert (exact - empirical).abs().max() < kolmogorov


def test_normals_reach_into_the_tails_as_often_as_they_should():
    z = normals("tails").abs()
    for level in (3.0, 4.0):
        p = math.erfc(level / math.sqrt(2))
        assert abs((z > level).sum() - N * p) < Z * math.sqrt(N * p)


def test_uniform_numbers_are_equidistributed_and_never_0_or_1():
    u = draws.uniform(rows(N_ROWS, "uniform"), N_COLUMNS)
    counts = torch.histc(u, 256, 0, 1).double()
    chi2 = ((counts - N / 256) ** 2 / (N / 256)).sum()
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)
    assert u.min() > 0 and u.max() < 1


def test_neighbours_branches_and_other_keys_are_uncorrelated():
    z, other = normals("a"), normals("b")
    half = N_COLUMNS // 2
    pairs = {
        "columns": (z[:, 1:], z[:, :-1]),
        "rows": (z[1:], z[:-1]),
        "Box-Muller branches": (z[:, :half], z[:, half:]),
        "squares of the branches": (z[:, :half] ** 2 - 1, z[:, half:] ** 2 - 1),
        "keys": (z, other),
        "uniform of the same key": (z, draws.uniform(rows(N_ROWS, "a"), N_COLUMNS).double() - 0.5),
    }
    for name, (a, b) in pairs.items():
        r = (a * b).mean() / (a.std() * b.std())
        assert abs(r) < Z / math.sqrt(a.numel()), name


def test_sums_over_rows_and_over_columns_have_the_variance_of_independent_numbers():
    z = normals("sums")
    for axis, n, count in ((0, N_ROWS, N_COLUMNS), (1, N_COLUMNS, N_ROWS)):
        chi2 = (z.sum(axis) ** 2 / n).sum()
        assert abs(chi2 - count) < 5 * math.sqrt(2 * count)


def test_a_key_of_tensors_gives_the_same_numbers_as_a_key_of_ints():
    k = draws.key("a", 7)
    t = draws.Key(torch.tensor(k.a, dtype=torch.int32), torch.tensor(k.b, dtype=torch.int32))
    folded, folded_t = draws.fold(k, "x", 3), draws.fold(t, "x", 3)
    index = torch.arange(5, dtype=torch.int32)
    assert torch.equal(draws.normal(draws.rows_of(folded, index), 6), draws.normal(draws.rows_of(folded_t, index), 6))


def test_a_number_depends_on_its_place_only():
    whole = draws.normal(draws.rows_of(draws.key("x"), torch.arange(10, dtype=torch.int32)), 8)
    part = draws.normal(draws.rows_of(draws.key("x"), torch.arange(4, 7, dtype=torch.int32)), 8)
    assert torch.equal(whole[4:7], part)


def test_the_same_parts_give_the_same_key_on_every_machine():
    assert draws.key("chip", 7, 0) == draws.Key(*draws.words("chip", 7, 0))
    assert draws.words("chip", 7, 0) == (529799825, 1872997936)


def test_torch_manual_seed_governs_fresh_keys():
    torch.manual_seed(3)
    a = draws.fresh()
    torch.manual_seed(3)
    b = draws.fresh()
    c = draws.fresh()
    assert a.a == b.a and a.b == b.b and (c.a, c.b) != (b.a, b.b)
