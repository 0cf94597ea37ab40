# Copyright 2026 The vit_jax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Keys that vit_jax does not have under that name: the ancestor's that are gone, and others' words.

Messages on an unknown key take their remedy from here.
"""

from collections.abc import Collection

# Keys of the ancestor that are gone, and what to do instead.
REMOVED = {
  "trainer": "remove it (`vit-jax train` is the trainer)",
  "tfds_manual_dir": "remove it (prepare the data set beforehand, then set tfds_data_dir)",
  "prefetch": "remove it (reading ahead is automatic; `threads` sets the number of readers)",
  "eval_only": "remove it and run `vit-jax evaluate`",
  "with_dataset": "set `dataset` and `pp`",
  "num_classes": "remove it (the data set decides)",
}
REMOVED_FROM_MODEL = {
  "model_name": "use model.name",
  "transformer": "its fields are the model's own now: use model.{inner}",
  "patches": "use model.patch_size",
  "resnet": "its fields are the model's own now (see `vit-jax models`)",
  "num_classes": "remove it (the data set decides)",
  "image_size": "use pp.crop",
}
_REMOVED = {**REMOVED, **{f"model.{name}": hint for name, hint in REMOVED_FROM_MODEL.items()}}

# Our key, and what other codebases call it, in whatever section.
_WORDS = {
  "accum_steps": "accum accum_iter accumulation_steps grad_accum gradient_accumulation_steps",
  "base_lr": "lr learning_rate max_lr peak_lr initial_lr blr",
  "batch": "batch_size train_batch_size global_batch_size per_device_train_batch_size bs",
  "batch_eval": "eval_batch_size batch_size_eval val_batch_size per_device_eval_batch_size",
  "checkpoint": "ckpt finetune init_checkpoint init_from initial_checkpoint model_init pretrained "
  "weights",
  "checkpoint_every": "ckpt_every ckpt_steps checkpoint_interval checkpoint_steps save_every "
  "save_interval save_steps",
  "checkpoint_minutes": "checkpoint_interval_minutes ckpt_minutes save_interval_minutes "
  "save_minutes",
  "cutmix": "cutmix_alpha cutmix_prob",
  "dataset": "data data_path data_folder dataset_dir dataset_name train_dir",
  "decay_type": "lr_schedule lr_scheduler sched schedule scheduler",
  "distill.tau": "distillation_tau temperature",
  "distill.teacher": "teacher_model teacher_path",
  "ema_decay": "ema ema_rate model_ema model_ema_decay",
  "epochs": "epoch max_epochs num_epochs num_train_epochs total_epochs train_epochs",
  "eval_every": "eval_freq eval_interval eval_steps log_eval_steps",
  "frozen": "freeze freeze_layers trainable",
  "grad_norm_clip": "clip clip_grad clip_norm grad_clip grad_clip_norm gradient_clip_val "
  "max_grad_norm",
  "keep_last": "keep max_to_keep save_total_limit",
  "label_smoothing": "smoothing",
  "mesh.data": "devices gpus num_devices num_gpus",
  "mixup": "mixup_alpha mixup_p mixup_prob",
  "model.dropout_rate": "dropout drop drop_rate hidden_dropout_prob",
  "model.drop_path_rate": "drop_path stoch_depth stochastic_depth",
  "model.dtype": "amp bf16 fp16 half half_precision mixed_precision precision",
  "model.hidden_size": "embed_dim embedding_dim hidden_dim width",
  "model.mlp_dim": "intermediate_size",
  "model.name": "arch architecture backbone model_name",
  "model.num_heads": "heads num_attention_heads",
  "model.num_layers": "depth layers num_hidden_layers",
  "model.patch_size": "patch",
  "optim.b1": "adam_beta1 beta1",
  "optim.b2": "adam_beta2 beta2",
  "optim.eps": "adam_eps adam_epsilon epsilon opt_eps",
  "optim.name": "opt optimiser optimizer",
  "optim.weight_decay": "decay wd",
  "pp.crop": "crop_size image_size img_size input_size res resolution size",
  "pp.flip": "hflip horizontal_flip random_flip",
  "pp.resize": "resize_size",
  "progress_every": "log_every log_every_steps log_freq log_interval log_steps log_training_steps "
  "logging_steps print_freq",
  "seed": "random_seed rng rng_seed",
  "tfds_data_dir": "data_dir tfds_dir",
  "threads": "num_threads num_workers workers",
  "total_steps": "iterations max_steps num_steps num_train_steps steps train_steps training_steps",
  "warmup_steps": "num_warmup_steps warmup",
}
_SYNONYMS = {word: ours for ours, words in _WORDS.items() for word in words.split()}

_NO_KEYS = {
  **dict.fromkeys(("classes", "nb_classes", "n_classes"), "remove it (the data set decides)"),
  **dict.fromkeys(("workdir", "output_dir", "save_dir", "log_dir"), "use the option --workdir=DIR"),
  "resume": "remove it: the same command continues a run (--resume=never refuses to)",
}


def in_our_words(path: str, known: Collection[str]) -> str | None:
  """What to do instead of setting a key that is not here; None if no one knows the word.

  Args:
    path: the key's, such as "optim.lr".
    known: paths of the keys that are here.
  """
  parts = path.lower().replace("-", "_").split(".")
  for count in range(1, len(parts) + 1):
    if (hint := _REMOVED.get(".".join(parts[:count]))) is not None:
      return hint.format(inner=parts[min(count, len(parts) - 1)])
  word = parts[-1]
  if word in _NO_KEYS:
    return _NO_KEYS[word]
  if _SYNONYMS.get(word) in known:
    return f"use {_SYNONYMS[word]}"
  same = [name for name in known if name.rpartition(".")[2].lower() == word]
  return f"use {' or '.join(same)}" if same else None
