"""The whole chain on scikit-learn's 1797 handwritten digits: no download, no server, a laptop's CPU.

For: a first look, and the test that everything works.
"""

from tasks.config import Cluster, Config, Data

CONFIG = Config(data=Data(train="digits", test="digits", image_size=16, labels_per_class=2), cluster=Cluster(k=30))
