"""The components of the page, and how they lie."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from ldm_jax.samplers import SAMPLERS
from ldm_jax.studio.drawing import progress_bar, tree_picture
from ldm_jax.studio.files import FORMATS
from ldm_jax.studio.reading import ARRAY, CLASS, IMAGE, LAYOUT, MAP, TEXT, Reading
from ldm_jax.studio.settings import MAX_STEPS, first_settings, legal_sizes
from ldm_jax.studio.studio import Studio

_FILES = [f".{name.lower()}" for name in (*FORMATS, "jpg")]
_WISH = "What should be there instead; empty for the same again"


class Layout:
    """The components; to be made within `gr.Blocks`.

    Attributes:
      form: what a person sets, by name, see `desk.FORM`.
    """

    def __init__(self, studio: Studio):
        """Makes what the studio's model can be told."""
        self._studio, self._reading = studio, studio.reading
        self.form: dict[str, Any] = {}
        self._head()
        with gr.Row(equal_height=False, elem_id="work"):
            with gr.Column(scale=5, min_width=330):
                self._stage()
            with gr.Column(scale=4, min_width=330), gr.Tabs():
                with gr.Tab("Draw"):
                    self._draw_tab()
                with gr.Tab("Regions", visible=_paints(self._reading)):
                    self._region_tab()
                with gr.Tab("Edit"):
                    self._edit_tab()
                with gr.Tab("Look inside"):
                    self._look_tab()
                with gr.Tab("Gallery"):
                    self._gallery_tab()

    def _head(self) -> None:
        source = html.escape("/".join(Path(str(self._studio.pipeline.source)).parts[-2:]))
        gr.HTML(f"<h1>ldm_jax studio</h1><span>{source}</span>", elem_id="head", js_on_load=None)

    def _stage(self) -> None:
        self.easel = gr.HTML(
            _easel_html(self._reading, self._studio.pipeline.task.image_size),
            elem_id="easel",
            js_on_load="window.ldmEasel.start(element)",
        )
        self.bar = gr.HTML(progress_bar(None, "ready"), elem_id="bar", js_on_load=None)
        self.said = gr.HTML("", elem_id="message", js_on_load=None)
        with gr.Row(elem_id="buttons"):
            self.draw = gr.Button("Draw", variant="primary", elem_id="draw", min_width=80)
            self.pause = gr.Button("Pause", elem_id="pause", min_width=80)
            self.step = gr.Button("Step", elem_id="step", min_width=80)
            self.go_on = gr.Button("Continue", elem_id="continue", min_width=80)
            self.apply = gr.Button("Apply", elem_id="apply", min_width=80)
        self.tree = gr.HTML(
            tree_picture(None), elem_id="tree", js_on_load=_click("branch", "row"), padding=False
        )
        # What goes to the easel, and what comes from it.
        self.shown = gr.Textbox(visible="hidden", elem_id="shown")
        self.paint = gr.Textbox(visible="hidden", elem_id="paint")

    def _draw_tab(self) -> None:
        first, reading = first_settings(self._studio.pipeline), self._reading
        is_text, form = reading.kind == TEXT, self.form
        form["prompt"] = gr.Textbox(
            label="Prompt",
            lines=1,
            max_lines=4,
            elem_id="prompt",
            visible=is_text,
            placeholder="what to draw",
        )
        form["negative"] = gr.Textbox(label="Without", elem_id="negative", visible=is_text)
        form["label"] = gr.Number(
            0,
            label=f"Class, 0 to {reading.classes - 1}",
            precision=0,
            minimum=0,
            visible=reading.kind == CLASS,
            elem_id="label",
        )
        with gr.Group(visible=reading.kind in (IMAGE, ARRAY)):
            self.read_file = gr.File(
                label=f"The {reading.name} that this model reads",
                type="binary",
                file_types=[".npy"] if reading.kind == ARRAY else _FILES,
                elem_id="read",
            )
            self.read_shown = gr.HTML("", js_on_load=None)
        with gr.Row():
            form["guidance"] = gr.Slider(
                1, 20, first.guidance, step=0.1, label="Guidance", elem_id="guidance"
            )
            form["steps"] = gr.Slider(
                1, MAX_STEPS, first.steps, step=1, label="Steps", elem_id="steps"
            )
        with gr.Row():
            form["sampler"] = gr.Dropdown(
                sorted(SAMPLERS), value=first.sampler, label="Sampler", elem_id="sampler"
            )
            form["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
            form["num_images"] = gr.Dropdown(
                list(range(1, self._studio.limits.images + 1)),
                value=1,
                label="Images",
                elem_id="num_images",
                min_width=80,
            )
        sizes = legal_sizes(self._studio.pipeline)
        with gr.Row():
            for name, side in zip(("height", "width"), first.size, strict=True):
                form[name] = gr.Dropdown(
                    sizes, value=side, label=name.capitalize(), elem_id=name, min_width=80
                )
        self.back_file = gr.UploadButton(
            "Read back a PNG of the studio", type="binary", file_types=[".png"], elem_id="readback"
        )
        self.replay = gr.Button("Replay it", visible=False, elem_id="replay")
        self.history = gr.State(None)

    def _region_tab(self) -> None:
        own = self._reading.paints_regions
        gr.Markdown(
            "Choose a colour under the picture, paint, and say what belongs there. "
            "**Draw**, or **Apply** to a run under way."
        )
        for number in range(1, self._reading.most + 1):
            with gr.Group():
                label = f"Region {number}" + ("" if self._reading.kind == TEXT else ": class")
                name = f"region{number}_"
                self.form[f"{name}prompt"] = gr.Textbox(label=label, elem_id=f"{name}prompt")
                with gr.Row(visible=own):
                    self.form[f"{name}weight"] = gr.Slider(
                        0, 1, 1, step=0.05, label="Weight", min_width=100
                    )
                    self.form[f"{name}feather"] = gr.Slider(
                        0, 32, 1, step=0.5, label="Feather, pixels", min_width=100
                    )
        with gr.Row():
            self.save_regions = gr.Button("Save these", elem_id="save_regions")
            self.load_regions = gr.UploadButton(
                "Load regions", type="binary", file_types=[".json"], elem_id="load_regions"
            )
        self.regions_link = gr.HTML("", elem_id="regions_link", js_on_load=None)

    def _edit_tab(self) -> None:
        gr.Markdown("Choose **mark** under the picture and brush over what should change.")
        only = None if self._reading.kind == TEXT else "the same condition, another seed"
        self.form["wish"] = gr.Textbox(
            label=_WISH, placeholder=only, elem_id="wish", interactive=only is None
        )
        self.form["strength"] = gr.Slider(
            0.05, 1, 0.75, step=0.05, label="Strength: how much is drawn anew", elem_id="strength"
        )
        with gr.Row():
            self.marked = gr.Button("Redraw what is marked", variant="primary", elem_id="marked")
            self.all = gr.Button("Redraw all of it", elem_id="all")
        with gr.Row():
            sizes = legal_sizes(self._studio.pipeline)
            unit = sizes[1] - sizes[0] if len(sizes) > 1 else sizes[0]
            self.form["borders"] = gr.Slider(
                unit, 4 * unit, unit, step=unit, label="Border, pixels", elem_id="borders"
            )
            self.around = gr.Button("Paint around it", elem_id="around")
        self.image_file = gr.File(
            label="Or start from an image of yours",
            type="binary",
            file_types=_FILES,
            elem_id="upload",
            height=120,
        )

    def _look_tab(self) -> None:
        with gr.Row():
            self.strip = gr.Button("Denoising", elem_id="strip", min_width=90)
            self.channels = gr.Button("Latent channels", elem_id="channels", min_width=90)
        self.words = gr.Radio(
            [], label="Where does the network look at …", elem_id="words", type="index"
        )
        self.picture = gr.HTML("", elem_id="picture", js_on_load=None)

    def _gallery_tab(self) -> None:
        self.gallery = gr.HTML(
            "<p class='said'>Finished images are kept here.</p>",
            elem_id="gallery",
            js_on_load=_click("kept"),
        )
        self.links = gr.HTML("", elem_id="links", js_on_load=None)
        self.command = gr.Textbox(
            label="The equal command", buttons=["copy"], elem_id="command", lines=2
        )
        self.record = gr.Code(label="Parameters", language="json", elem_id="record")


def _paints(reading: Reading) -> bool:
    """Returns whether regions say something to a model."""
    return reading.kind in (TEXT, CLASS, LAYOUT, MAP)


def _click(*names: str) -> str:
    """Returns JavaScript that hands on the data of a clicked part."""
    told = ", ".join(f"{name}: Number(found.dataset.{name})" for name in names)
    return (
        "const tell = (event) => {"
        f" const found = event.target.closest('[data-{names[0]}]');"
        f" if (found) trigger('click', {{ {told} }}); }};"
        "element.addEventListener('click', tell);"
        "element.addEventListener('keydown', (event) => {"
        " if (event.key === 'Enter') tell(event); });"
    )


def _easel_html(reading: Reading, edge: int) -> str:
    """Returns the canvas and its tools."""
    layers = []
    if _paints(reading):
        layers = [
            f'<button type="button" data-layer="{k}" aria-pressed="false" title="region {k}">'
            f"{k}</button>"
            for k in range(1, reading.most + 1)
        ]
    layers.append(
        '<button type="button" data-layer="mask" aria-pressed="false" '
        'title="what an edit may change">mark</button>'
    )
    return (
        f'<canvas width="768" height="768" data-edge="{edge}" '
        'aria-label="the picture; choose a colour to paint on it">'
        f'</canvas><div class="thumbs"></div><div class="tools">{"".join(layers)}'
        '<label>brush <input type="range" data-brush min="2" max="60" value="18"></label>'
        '<button type="button" data-erase aria-pressed="false">eraser</button>'
        '<button type="button" data-undo>undo</button>'
        '<button type="button" data-clear>clear</button></div>'
    )
