"""Priors over strings of codes: independent codes, a masked network, and a GPT-2 Transformer."""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, check_temperature
from modeflow.densities.codes import AutoregressiveCodes
from modeflow.errors import ConfigError

__all__ = ["GPT2Prior", "IndependentCodes", "MaskedCodes", "SequencePrior"]


class SequencePrior(Density):
    """``p(z)`` over strings of `length` codes out of `n_codes`; probabilities sum to one over all strings.

    A temperature, above 0, raises the probabilities of every code given those before to its inverse.

    Arguments:
        n_codes: V. length: L.

    Raises:
        ConfigError: if either is less than one.
    """

    tempers = True
    #: What a prior of the same shape is built with, wherever its weights come from; None: nothing.
    sizes: dict[str, Any] | None = None
    #: Whether it knows what codes are embedded as: it is then built with the `quantizer` that makes them.
    of_codebook: ClassVar[bool] = False

    def __init__(self, n_codes: int, length: int) -> None:
        if n_codes < 1 or length < 1:
            raise ConfigError(f"n_codes and length must be 1 or more, received {n_codes} and {length}")
        super().__init__((length,))
        self.n_codes, self.length = int(n_codes), int(length)
        self.levels = self.n_codes

    def log_probs(self, codes: Tensor) -> Tensor:
        """``log p(z_j = v | z_<j)`` for every code v at every position of given strings, ``(B, L, V)``."""
        raise NotImplementedError

    def lengths(self, codes: Tensor, embedded: Tensor, log_q: Tensor) -> Tensor:
        """``-log p(z)`` of strings, nats, ``(B,)``, with a gradient to both ends: the prior learns what codes
        cost, and the encoder to choose cheap ones.

        Here the encoder's is that of ``Σ_j Σ_v q(z_j = v | x) (-log p(v | z_<j))`` (what a choice does to
        later positions is left out of it).

        Arguments:
            codes: ``(B, L)``. embedded: the same as ``(B, L, d)``, straight through to the encoder.
            log_q: ``log q(z_j = v | x)``, ``(B, L, V)``.
        """
        log_p = self.log_probs(codes)
        chosen = log_p.gather(2, codes.unsqueeze(-1)).squeeze(-1).sum(1)
        expected = -(log_q.exp() * log_p.detach()).sum((1, 2))
        return expected - expected.detach() - chosen

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        codes = x.long()
        return self.log_probs(codes).gather(2, codes.unsqueeze(-1)).squeeze(-1).sum(1)


class IndependentCodes(SequencePrior):
    """Every position has its own probabilities, learned; uniform at the start."""

    def __init__(self, n_codes: int, length: int) -> None:
        super().__init__(n_codes, length)
        self.logits = nn.Parameter(torch.zeros(length, n_codes))

    def log_probs(self, codes: Tensor) -> Tensor:
        return torch.log_softmax(self.logits, -1).expand(len(codes), -1, -1)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        check_temperature(temperature, "above 0")
        probs = torch.softmax(self.logits / temperature, -1)
        where = generator.device if generator is not None else probs.device
        drawn = torch.multinomial(probs.to(where), max(n, 1), replacement=True, generator=generator)
        return drawn.T[:n].to(probs.device)


class MaskedCodes(SequencePrior):
    r"""Each code given those before it, :math:`p(z) = \prod_j p(z_j \mid z_{<j})`, by a small masked network.

    For short strings: probabilities in one pass, a draw in L, without the Transformer's package.

    Arguments:
        n_codes, length: V and L. hidden_features, blocks: of the network (`AutoregressiveCodes`).

    Reference:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, 2015,
        https://arxiv.org/abs/1502.03509
    """

    def __init__(self, n_codes: int, length: int, hidden_features: int = 128, blocks: int = 1) -> None:
        super().__init__(n_codes, length)
        self.chain = AutoregressiveCodes((n_codes,) * length, 0, hidden_features, blocks)

    def log_probs(self, codes: Tensor) -> Tensor:
        theta = self.chain.net(self.chain._told(codes)).unflatten(-1, (self.length, self.n_codes - 1))
        return torch.log_softmax(nn.functional.pad(theta, (1, 0)), -1)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        check_temperature(temperature, "above 0")
        return self.chain._sample(n, None, generator, temperature).long()


class GPT2Prior(SequencePrior):
    r"""Autoregressive Transformer, :math:`p(z) = \prod_j p(z_j \mid z_{<j})`: a GPT-2 that starts at BOS.

    Arguments:
        n_codes, length: V and L (codes in raster order).
        width, layers, heads, dropout: of the Transformer (768, 12, 12, 0.1 in GPT-2 small).
        pretrained: a folder with the weights of a GPT-2 (``model.safetensors``), or its name on the Hugging
            Face hub: its blocks and first `length` positions are where training starts, and its sizes are
            those used. Embeddings of codes are new.

    Raises:
        ConfigError: if `heads` does not divide `width`, the package `transformers` is missing, or there are
            no such weights.

    Reference:
        Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019; Dong et al., *Normalizing
        Flow with Variational Latent Representation*, 2022, https://arxiv.org/abs/2211.11638
    """

    def __init__(
        self,
        n_codes: int,
        length: int,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        pretrained: str | None = None,
    ) -> None:
        super().__init__(n_codes, length)
        known = None if pretrained is None else _pretrained(pretrained)
        if known is not None:
            width, layers, heads = known.config.n_embd, known.config.n_layer, known.config.n_head
        self.sizes = {"width": width, "layers": layers, "heads": heads, "dropout": dropout}
        if width % heads:
            raise ConfigError(f"heads must divide width, received {heads} and {width}")
        package = _transformers()
        config = package.GPT2Config(
            vocab_size=n_codes + 1,
            n_positions=length,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=n_codes,
            eos_token_id=n_codes,
        )
        self.net: Any = package.GPT2LMHeadModel(config)
        #: What its versions call the keys and values of what came before.
        known_names = inspect.signature(package.GPT2LMHeadModel.forward).parameters
        self._cache = "cache" if "cache" in known_names else "past_key_values"
        if known is not None:
            self._take_over(known)

    @torch.no_grad()
    def _take_over(self, known: Any) -> None:
        ours, theirs = self.net.transformer, known.transformer
        if self.length > len(theirs.wpe.weight):
            raise ConfigError(
                f"the pretrained GPT-2 knows {len(theirs.wpe.weight)} positions, not {self.length}"
            )
        ours.h.load_state_dict(theirs.h.state_dict())
        ours.ln_f.load_state_dict(theirs.ln_f.state_dict())
        ours.wpe.weight.copy_(theirs.wpe.weight[: self.length])

    def _log_probs(self, out: Any) -> Tensor:
        """Over the codes alone: BOS is never drawn."""
        return torch.log_softmax(out.logits[..., : self.n_codes].float(), -1)

    def log_probs(self, codes: Tensor) -> Tensor:
        start = codes.new_full((len(codes), 1), self.n_codes)
        out = self.net(input_ids=torch.cat((start, codes[:, :-1]), 1), use_cache=False)
        return self._log_probs(out)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        check_temperature(temperature, "above 0")
        device = self.net.device
        where = generator.device if generator is not None else device
        token = torch.full((n, 1), self.n_codes, dtype=torch.long, device=device)
        codes: list[Tensor] = []
        past: Any = None
        mode = self.training
        self.eval()
        try:
            for _ in range(self.length if n else 0):
                # Keys and values of what came before are kept: each position is evaluated once.
                out = self.net(input_ids=token, use_cache=True, **{self._cache: past})
                past = out.past_key_values
                probs = torch.softmax(self._log_probs(out)[:, -1] / temperature, -1)
                token = torch.multinomial(probs.to(where), 1, generator=generator).to(device)
                codes.append(token)
        finally:
            self.train(mode)
        return torch.cat(codes, 1) if codes else token.new_empty(0, self.length)

    @property
    def uniform_nats(self) -> float:
        """What a string would cost if all codes were equally likely, nats."""
        return self.length * math.log(self.n_codes)


def _transformers() -> Any:
    """The package, or a line that says how to get it."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "the Transformer prior needs the package transformers: pip install 'modeflow[images]'"
        ) from error
    return transformers


def _pretrained(name: str) -> Any:
    """A GPT-2 from a folder or the hub; safetensors only, for a pickle could run code."""
    package = _transformers()
    logging = package.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return package.GPT2LMHeadModel.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"no GPT-2 could be loaded from '{name}' ({reason}); give a folder with config.json and "
            "model.safetensors, or a name on the hub"
        ) from error
    finally:
        logging.set_verbosity(before)
