"""Stable-Baselines3's PPO: every weight of policy and value network is generated. CartPole's best return is 500."""

from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy

import qpa

agent = PPO("MlpPolicy", "CartPole-v1", learning_rate=3e-3, n_steps=1024, batch_size=128, seed=1, device="cpu")
generated = qpa.generate(agent.policy, seed=1)
agent.policy.optimizer = generated.optimizer(torch.optim.Adam, lr=3e-3)  # PPO sets its rate from learning_rate
print(generated.counts)

before, _ = evaluate_policy(agent, agent.get_env(), n_eval_episodes=20)
agent.learn(15_000)
after, _ = evaluate_policy(agent, agent.get_env(), n_eval_episodes=20)
print(f"return {before:.0f} -> {after:.0f}")

Path("outputs").mkdir(exist_ok=True)
agent.policy.save("outputs/sb3_ppo.pt")  # a plain policy
reloaded = ActorCriticPolicy.load("outputs/sb3_ppo.pt")
observations = torch.randn(100, 4)
assert torch.equal(reloaded.predict_values(observations), agent.policy.predict_values(observations))
assert torch.equal(reloaded.get_distribution(observations).mode(), agent.policy.get_distribution(observations).mode())
