"""A pipeline's tensors under the names of Stable Diffusion's first code: the way back from what diffusers reads."""

import torch

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def single_file(pipeline):
    """All tensors of a pipeline by the names of a single file."""
    unet = {f"model.diffusion_model.{name}": v for name, v in unet_names(pipeline.unet).items()}
    vae = {f"first_stage_model.{name}": v for name, v in vae_names(pipeline.vae).items()}
    text = pipeline.text_encoder.state_dict()
    if pipeline.unet.config.cross_attention_dim == 1024:
        named = {f"cond_stage_model.model.{name}": v for name, v in open_clip_names(text).items()}
    else:
        named = {f"cond_stage_model.transformer.text_model.{name}": v for name, v in text.items()}
    return {name: values.contiguous().clone() for name, values in (unet | vae | named).items()}


def unet_names(unet):
    layers, blocks = unet.config.layers_per_block, len(unet.config.block_out_channels)
    places = {"mid_block.attentions.0.": "middle_block.1."}
    places |= {f"mid_block.resnets.{j}.": f"middle_block.{2 * j}." for j in range(2)}
    for i in range(blocks):
        for j in range(layers + 1):
            for kind, k in (("resnets", 0), ("attentions", 1)):
                places[f"down_blocks.{i}.{kind}.{j}."] = f"input_blocks.{(layers + 1) * i + j + 1}.{k}."
                places[f"up_blocks.{i}.{kind}.{j}."] = f"output_blocks.{(layers + 1) * i + j}.{k}."
        places[f"down_blocks.{i}.downsamplers.0.conv."] = f"input_blocks.{(layers + 1) * (i + 1)}.0.op."
        places[f"up_blocks.{i}.upsamplers.0."] = f"output_blocks.{(layers + 1) * i + layers}.{1 if i == 0 else 2}."
    found = {}
    for name, values in unet.state_dict().items():
        part, dot, last = name.rpartition(".")
        if part in UNET:
            found[f"{UNET[part]}{dot}{last}"] = values
            continue
        before = next(place for place in places if name.startswith(place))
        rest = name.removeprefix(before)
        if ".resnets." in name:
            part, dot, last = rest.rpartition(".")
            rest = f"{RESNET[part]}{dot}{last}"
        found[places[before] + rest] = values
    return found


def vae_names(vae):
    blocks, found = len(vae.config.block_out_channels), {}
    for name, values in vae.state_dict().items():
        for i in range(blocks):
            name = name.replace(f"encoder.down_blocks.{i}.", f"encoder.down.{i}.")
            name = name.replace(f"decoder.up_blocks.{i}.", f"decoder.up.{blocks - 1 - i}.")
        for i in range(2):
            name = name.replace(f"mid_block.resnets.{i}.", f"mid.block_{i + 1}.")
        if "mid_block.attentions.0." in name:
            part, _, last = name.partition("mid_block.attentions.0.")[2].rpartition(".")
            name = f"{name.partition('mid_block')[0]}mid.attn_1.{ATTENTION[part]}.{last}"
            values = values[:, :, None, None] if values.ndim == 2 else values
        name = name.replace(".resnets.", ".block.").replace("downsamplers.0", "downsample")
        name = name.replace("upsamplers.0", "upsample").replace("conv_shortcut", "nin_shortcut")
        found[name.replace("conv_norm_out", "norm_out")] = values
    return found


def open_clip_names(text):
    """OpenCLIP's, whose last layer but one is the text encoder's last."""
    found = {"positional_embedding": text["embeddings.position_embedding.weight"],
             "token_embedding.weight": text["embeddings.token_embedding.weight"],
             "ln_final.weight": text["final_layer_norm.weight"], "ln_final.bias": text["final_layer_norm.bias"],
             "logit_scale": torch.tensor(4.6)}  # fmt: skip
    for name, values in text.items():
        if not name.startswith("encoder.layers."):
            continue
        number, _, rest = name.removeprefix("encoder.layers.").partition(".")
        part, _, last = rest.rpartition(".")
        block = f"transformer.resblocks.{number}."
        if part in CLIP:
            found[f"{block}{CLIP[part]}.{last}"] = values
        elif part == "self_attn.q_proj":
            of = f"encoder.layers.{number}.self_attn."
            found[f"{block}attn.in_proj_{last}"] = torch.cat([text[f"{of}{x}_proj.{last}"] for x in "qkv"])
    width = text["final_layer_norm.weight"].shape[0]
    return found | {"text_projection": torch.eye(width)}
