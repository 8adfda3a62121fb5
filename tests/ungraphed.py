"""``train.py`` without the graphs, which take most of a tiny run's time: where only the weights are asked for."""

import runpy

from world_model.training import assemble

if __name__ == "__main__":
    assemble.export = lambda folder: []
    runpy.run_path("train.py", run_name="__main__")
