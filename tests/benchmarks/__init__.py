"""What an event costs the server, beside a bare uvicorn in the same run: `python -m tests.benchmarks`."""
