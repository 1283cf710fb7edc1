"""A chat model behind an OpenAI-compatible address, used only where a person names one: as a judge, or to write
reusable code."""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from lora_reuse.runs.settings import SettingError

_AGAIN = (408, 409, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Endpoint:
    """`url` is the address before /chat/completions; `key_variable` names the environment variable that holds the key,
    and may name none."""

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    seconds: float = 120.0
    tries: int = 5
    pause: float = 2.0

    def say(self, messages: Sequence[tuple[str, str]]) -> str:
        """The answer to (role, content) messages, at temperature 0. Raises SettingError for an address that gives
        none."""
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [{"role": role, "content": content} for role, content in messages],
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable, ""):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        why = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.seconds) as response:
                    said = json.loads(response.read())["choices"][0]["message"]["content"]
                if not isinstance(said, str):
                    raise TypeError
                return said
            except urllib.error.HTTPError as error:
                with error:
                    why = f"status {error.code}, {error.read(200).decode(errors='replace').strip()}"
                if error.code not in _AGAIN:
                    break
            except (OSError, http.client.HTTPException) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
            except (ValueError, KeyError, IndexError, TypeError):
                why = "an answer that is no chat completion"
                break
        raise SettingError(
            "endpoint",
            f"{self.url} ({why})",
            "an OpenAI-compatible address that answers",
            f"its key is read from {self.key_variable}",
        )


def endpoint_of(url: str, model: str, key_variable: str) -> Endpoint:
    """The endpoint of a command's settings. Raises SettingError where the address or the model is missing."""
    if not url.startswith(("http://", "https://")):
        raise SettingError("endpoint", repr(url), "http://... or https://..., as in https://api.openai.com/v1")
    if not model or model == "none":
        raise SettingError("endpoint", f"{url} without a model", "the name of a model that it serves")
    return Endpoint(url, model, key_variable)
