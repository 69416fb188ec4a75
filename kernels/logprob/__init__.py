"""Log-probabilities of given tokens from hidden states, without full logits."""

from kernels.logprob.op import token_logprobs
from kernels.logprob.reference import PLAIN, LogitTransform, token_logprobs_reference

__all__ = ["PLAIN", "LogitTransform", "token_logprobs", "token_logprobs_reference"]
