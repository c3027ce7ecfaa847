import torch

from tests.kinds import kind

pytest_ignore_collect, pytest_collection_modifyitems = kind(__file__, "model")

# Models of some thousand parameters: a second thread costs ten times what it gives on a busy machine.
torch.set_num_threads(1)
