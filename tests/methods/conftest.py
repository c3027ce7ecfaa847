import torch

# Models of some thousand parameters: a second thread costs ten times what it gives on a busy machine.
torch.set_num_threads(1)
