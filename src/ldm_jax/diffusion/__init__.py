"""The diffusion process as pure functions: schedule, forward process, parameterisation, loss."""
