from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.samplers.heun import heun

S_2, S_1 = signal(2), signal(1)


def test_three_steps():
    """Two evaluations for each of the steps by -1 in sigma, and one for that to clean data."""
    assert_rows(
        heun(levels_of(3, 2, 1, 0)),
        t=[2, 1, 1, 0, 0],
        from_z=1,
        base=[0, 1, 0, 1, 0],
        x0=[S_2, 0, S_1, 0, 1],
        eps=[S_2 * 2, -S_2 / 2, S_1 * 1, -S_1 / 2, 0],
        h1=[0, S_2 / 2, 0, S_1 / 2, 0],
        keep_eps=[1, 0, 1, 0, 1],
    )


def test_an_end_before_clean_data_is_corrected_too():
    rows = heun(levels_of(3, 2))
    # Beyond the table of timesteps there is no other to ask at.
    assert_rows(
        rows,
        t=[0, 0],
        from_z=1,
        base=[0, 1],
        x0=[S_2, 0],
        eps=[S_2 * 2, -S_2 / 2],
        h1=[0, S_2 / 2],
        keep_eps=[1, 0],
    )
