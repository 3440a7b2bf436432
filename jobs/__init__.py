"""One file per job. Each holds a Config, run(config) and main(argv); `nemf NAME` is `python -m jobs.NAME`."""
