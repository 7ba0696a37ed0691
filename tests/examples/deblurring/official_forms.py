"""The names and shapes in published files of weights, from the tables of the study."""

Shapes = dict[str, tuple[int, ...]]


def official_mimo_unet(width: int, blocks: int) -> Shapes:
    c1, c2, c4 = width, 2 * width, 4 * width
    convs = {}
    for block in range(blocks):
        for part in (0, 1):
            for level, c in enumerate((c1, c2, c4)):
                convs[f"Encoder.{level}.layers.{block}.main.{part}"] = (c, c, 3)
                convs[f"Decoder.{2 - level}.layers.{block}.main.{part}"] = (c, c, 3)
    for index, (channels, out, kernel) in enumerate(
        [(3, c1, 3), (c1, c2, 3), (c2, c4, 3), (c2, c4, 4), (c1, c2, 4), (c1, 3, 3)]
    ):
        convs[f"feat_extract.{index}"] = (channels, out, kernel)
    convs |= {"Convs.0": (c4, c2, 1), "Convs.1": (c2, c1, 1), "ConvsOut.0": (c4, 3, 3), "ConvsOut.1": (c2, 3, 3)}
    for index, out in enumerate((c1, c2)):
        convs |= {f"AFFs.{index}.conv.0": (c1 + c2 + c4, out, 1), f"AFFs.{index}.conv.1": (out, out, 3)}
    for number, k in ((1, c4), (2, c2)):
        convs |= {f"FAM{number}.merge": (k, k, 3), f"SCM{number}.conv": (k, k, 1)}
        for index, (channels, out, kernel) in enumerate(
            [(3, k // 4, 3), (k // 4, k // 2, 1), (k // 2, k // 2, 3), (k // 2, k - 3, 1)]
        ):
            convs[f"SCM{number}.main.{index}"] = (channels, out, kernel)
    shapes = {}
    for name, arguments in convs.items():
        shapes |= conv(f"{name}.main.0", *arguments)
    # Transposed convolutions keep the number of channels that come in first, and have a bias for those that go out.
    shapes["feat_extract.3.main.0.bias"], shapes["feat_extract.4.main.0.bias"] = (c2,), (c1,)
    return shapes


def official_hinet(width: int) -> Shapes:
    widths = [width * 2**level for level in range(5)]
    shapes = {**conv("sam12.conv1", width, width, 3), **conv("sam12.conv2", width, 3, 3)}
    shapes |= {**conv("sam12.conv3", 3, width, 3), **conv("cat12", 2 * width, width, 1), **conv("last", width, 3, 3)}
    for stage in (1, 2):
        shapes |= conv(f"conv_0{stage}", 3, width, 3)
        for level, (before, c) in enumerate(zip([width, *widths], widths, strict=False)):
            block = f"down_path_{stage}.{level}"
            shapes |= {**conv(f"{block}.identity", before, c, 1), **conv(f"{block}.conv_1", before, c, 3)}
            shapes |= conv(f"{block}.conv_2", c, c, 3)
            if level in (3, 4):
                shapes |= {f"{block}.norm.weight": (c // 2,), f"{block}.norm.bias": (c // 2,)}
            if level < 4:
                shapes |= plain(f"{block}.downsample", c, c, 4)
            if level < 4 and stage == 2:
                shapes |= {**conv(f"{block}.csff_enc", c, c, 3), **conv(f"{block}.csff_dec", c, c, 3)}
        for index, c in enumerate(reversed(widths[:-1])):
            up = f"up_path_{stage}.{index}"
            shapes |= {f"{up}.up.weight": (2 * c, c, 2, 2), f"{up}.up.bias": (c,)}
            shapes |= {**conv(f"{up}.conv_block.identity", 2 * c, c, 1), **conv(f"{up}.conv_block.conv_1", 2 * c, c, 3)}
            shapes |= {**conv(f"{up}.conv_block.conv_2", c, c, 3), **conv(f"skip_conv_{stage}.{index}", c, c, 3)}
    return shapes


def official_nafnet(width: int, blocks: list[int]) -> Shapes:
    shapes = {**conv("intro", 3, width, 3), **conv("ending", width, 3, 3)}
    levels = len(blocks)
    places = [(f"encoders.{level}.{b}", width * 2**level) for level in range(levels) for b in range(blocks[level])]
    places += [("middle_blks.0", width * 2**levels)]
    places += [(f"decoders.{level}.0", width * 2 ** (levels - 1 - level)) for level in range(levels)]
    for place, c in places:
        shapes |= {**conv(f"{place}.conv1", c, 2 * c, 1), **conv(f"{place}.conv2", 1, 2 * c, 3)}
        shapes |= {**conv(f"{place}.conv3", c, c, 1), **conv(f"{place}.sca.1", c, c, 1)}
        shapes |= {**conv(f"{place}.conv4", c, 2 * c, 1), **conv(f"{place}.conv5", c, c, 1)}
        shapes |= {f"{place}.{norm}.{part}": (c,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        shapes |= {f"{place}.beta": (1, c, 1, 1), f"{place}.gamma": (1, c, 1, 1)}
    for level in range(levels):
        c = width * 2**level
        shapes |= conv(f"downs.{level}", c, 2 * c, 2)
        shapes |= plain(f"ups.{levels - 1 - level}.0", 2 * c, 4 * c, 1)
    return shapes


def official_mprnet(width: int, blocks: int) -> Shapes:
    c1, c2, c3, full = width, width * 3 // 2, width * 2, width * 4 // 3
    shapes = {**plain("concat12", 2 * c1, c1, 3), **plain("concat23", 2 * c1, full, 3), **plain("tail", full, 3, 3)}
    for number in (1, 2, 3):
        shapes |= {**plain(f"shallow_feat{number}.0", 3, c1, 3), **cab(f"shallow_feat{number}.1", c1)}
    for stage in (1, 2):
        shapes |= unet(stage, c1, c2, c3)
    for level, c in enumerate((c1, c2, c3), 1):
        shapes |= plain(f"stage2_encoder.csff_enc{level}", c, c, 1)
        shapes |= plain(f"stage2_encoder.csff_dec{level}", c, c, 1)
    for group in (1, 2, 3):
        for index in range(blocks):
            shapes |= cab(f"stage3_orsnet.orb{group}.body.{index}", full)
        shapes |= plain(f"stage3_orsnet.orb{group}.body.{blocks}", full, full, 3)
        shapes |= plain(f"stage3_orsnet.conv_enc{group}", c1, full, 1)
        shapes |= plain(f"stage3_orsnet.conv_dec{group}", c1, full, 1)
    for part in ("enc", "dec"):
        shapes |= plain(f"stage3_orsnet.up_{part}1.up.1", c2, c1, 1)
        shapes |= plain(f"stage3_orsnet.up_{part}2.0.up.1", c3, c2, 1)
        shapes |= plain(f"stage3_orsnet.up_{part}2.1.up.1", c2, c1, 1)
    for sam in ("sam12", "sam23"):
        shapes |= {**plain(f"{sam}.conv1", c1, c1, 1), **plain(f"{sam}.conv2", c1, 3, 1)}
        shapes |= plain(f"{sam}.conv3", 3, c1, 1)
    return shapes


def unet(stage: int, c1: int, c2: int, c3: int) -> Shapes:
    """The encoder and decoder of a stage of MPRNet."""
    encoder, decoder = f"stage{stage}_encoder", f"stage{stage}_decoder"
    shapes = {**cab(f"{decoder}.skip_attn1", c1), **cab(f"{decoder}.skip_attn2", c2)}
    for level, c in enumerate((c1, c2, c3), 1):
        for index in (0, 1):
            shapes |= cab(f"{encoder}.encoder_level{level}.{index}", c)
            shapes |= cab(f"{decoder}.decoder_level{level}.{index}", c)
    shapes |= {**plain(f"{encoder}.down12.down.1", c1, c2, 1), **plain(f"{encoder}.down23.down.1", c2, c3, 1)}
    return {**shapes, **plain(f"{decoder}.up21.up.1", c2, c1, 1), **plain(f"{decoder}.up32.up.1", c3, c2, 1)}


def cab(name: str, c: int) -> Shapes:
    """A channel attention block of MPRNet, with its copy of the PReLU."""
    attention = {**plain(f"{name}.CA.conv_du.0", c, c // 4, 1), **plain(f"{name}.CA.conv_du.2", c // 4, c, 1)}
    body = {**plain(f"{name}.body.0", c, c, 3), f"{name}.body.1.weight": (1,), **plain(f"{name}.body.2", c, c, 3)}
    return {**attention, **body}


def conv(name: str, channels: int, out: int, kernel: int) -> Shapes:
    return {**plain(name, channels, out, kernel), f"{name}.bias": (out,)}


def plain(name: str, channels: int, out: int, kernel: int) -> Shapes:
    """A convolution without bias."""
    return {f"{name}.weight": (out, channels, kernel, kernel)}
