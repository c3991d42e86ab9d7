"""The actors of PPO on Ray: policy, critic, reference, scorer and rollout."""
