"""Entry point of `vllm.general_plugins`: vLLM calls `register` in each of its processes."""


def register() -> None:
    """Teach vLLM's process the configuration of InternLM2; its model vLLM has itself."""
    # Imported here: vLLM lists its plug-ins also where it never loads a model.
    from pretrain_core.convert.internlm2 import register_internlm2

    register_internlm2()
