"""A talk with a model from the terminal, on plain Hugging Face generation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pretrain_core.chat import Message, PolicyChat
from pretrain_core.draws import seed_of


@dataclass
class Talk:
    """One conversation; each reply sees all turns before it."""

    model: Any
    chat: PolicyChat
    max_new_tokens: int
    temperature: float
    seed: int
    messages: list[Message] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path, max_new_tokens: int, temperature: float, seed: int) -> "Talk":
        """Load model and template; raises ChatError for a tokenizer without a usable template."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        chat = PolicyChat(AutoTokenizer.from_pretrained(folder))
        return cls(model, chat, max_new_tokens, temperature, seed)

    def say(self, text: str) -> str:
        """Add a user turn, return the model's reply."""
        self.messages.append(Message(role="user", content=text))
        prompt = torch.tensor([self.chat.prompt(self.messages)])
        torch.manual_seed(seed_of(self.seed, "chat", len(self.messages)))
        with torch.no_grad():
            output = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=self.max_new_tokens,
                do_sample=self.temperature > 0,
                temperature=self.temperature if self.temperature > 0 else None,
                eos_token_id=self.chat.stop_token_ids,
                pad_token_id=self.chat.stop_token_ids[0],
            )
        reply = self.chat.reply_message(output[0, prompt.shape[1] :].tolist())
        self.messages.append(reply)
        return reply.content
