"""lora-reuse placement model=Qwen/Qwen2.5-14B-Instruct

Compares adapters in the MLP, in attention, and in both (Tables 8 and 9). They are asked on the two hops and on setups 1
and 2 of the bridge."""

import sys

from lora_reuse.llm.bridge import bound, library, reported, subset
from lora_reuse.llm.protocols.controls import own_hops
from lora_reuse.llm.protocols.hops import hop_protocol
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.llm.protocols.settings import Placement

PROTOCOL = hop_protocol(__name__, Placement, subset, library, bound=bound, controls=own_hops, reported=reported)

if __name__ == "__main__":
    sys.exit(main(PROTOCOL, sys.argv[1:]))
