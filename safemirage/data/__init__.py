"""Data: readers of VLGuard and LLaVA files, as frozen records. Imports no torch.

`records.py` has the errors and the checks that readers share; `audit` looks at the words of questions. Forget and retain
files are made in `safemirage/prepare`.
"""
