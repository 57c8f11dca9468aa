"""The daemon: receive, score, decide, publish, acknowledge."""
