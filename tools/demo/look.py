"""How the page looks: fonts of the system, colours told apart with any vision."""

from typing import Any

from mmhyperface.utils.optional_imports import require

FONTS = ['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif']

CSS = """
.gradio-container {
  --same: #00694d; --same-tint: #e3f3ed; --other: #a83f00; --other-tint: #fbeadf;
  --open: #4b5663; --open-tint: #e9edf1; --muted: #56616e;
  width: 100% !important; max-width: 68rem !important;
  margin: 0 auto !important; padding: 0 !important;
}
.dark .gradio-container, .gradio-container.dark {
  --same: #5fd3ac; --same-tint: #10342a; --other: #ffa46b; --other-tint: #41230f;
  --open: #b4bfca; --open-tint: #252c34; --muted: #a3adb8;
  --color-accent: #7cb8f5;
}
.gradio-container > .main { padding: 0 !important; max-width: none !important; }
.gradio-container main {
  width: 100%; max-width: none !important;
  padding: 1.2rem clamp(0.8rem, 3vw, 2rem) 3rem !important;
}
.gradio-container .html-container { padding: 0; }
img.unseen { width: 100% !important; padding: 4rem 0.5rem; text-align: center; }
.head h1 { font-size: 1.6rem; line-height: 1.2; font-weight: 650; margin: 0 0 0.3rem; }
.head p, .hint, .note {
  color: var(--muted); margin: 0.2rem 0; line-height: 1.5;
}
.head p { overflow-wrap: anywhere; }
.hint {
  padding: 1.6rem 1rem; text-align: center;
  border: 1px dashed var(--border-color-primary);
  border-radius: 0.8rem;
}
.message {
  display: flex; gap: 0.8rem; padding: 0.9rem 1.1rem; border-radius: 0.8rem;
  background: var(--open-tint); color: var(--body-text-color); overflow-wrap: anywhere;
}
.message .sign {
  flex: none; width: 1.5rem; height: 1.5rem; border-radius: 50%; font-weight: 700;
  line-height: 1.5rem; text-align: center; background: var(--open);
  color: var(--background-fill-primary);
}
.message.wrong { background: var(--other-tint); }
.message.wrong .sign { background: var(--other); }
.message.done { background: var(--same-tint); }
.message.done .sign { background: var(--same); }

.verdict {
  display: grid; grid-template-columns: minmax(0, auto) minmax(0, 1fr);
  gap: 0.4rem 2.5rem;
  align-items: center; padding: 1.3rem 1.5rem; border-radius: 0.8rem;
  background: var(--tint); border-left: 0.4rem solid var(--tone);
}
.same { --tone: var(--same); --tint: var(--same-tint); }
.different { --tone: var(--other); --tint: var(--other-tint); }
.open { --tone: var(--open); --tint: var(--open-tint); }
.verdict .number {
  font-size: clamp(2.8rem, 8vw, 4rem); line-height: 1; font-weight: 650;
  font-variant-numeric: tabular-nums; letter-spacing: -0.02em; color: var(--tone);
}
.verdict .unit {
  display: block; font-size: 0.9rem; color: var(--muted);
}
.verdict .answer {
  display: flex; align-items: center; gap: 0.6rem; font-size: 1.45rem; font-weight: 650;
  color: var(--tone); line-height: 1.2;
}
.verdict .sign {
  flex: none; width: 2rem; height: 2rem; line-height: 2rem; border-radius: 50%;
  text-align: center; font-size: 1.1rem; background: var(--tone);
  color: var(--background-fill-primary);
}
.verdict .why { margin: 0.4rem 0 0; line-height: 1.45; color: var(--body-text-color); }
.scale { grid-column: 1 / -1; margin: 2.1rem 0.5rem 0.2rem; }
.scale .track {
  position: relative; height: 0.5rem; border-radius: 0.25rem;
  background: var(--border-color-primary);
}
.scale .dot {
  position: absolute; top: 50%; width: 1.2rem; height: 1.2rem; border-radius: 50%;
  transform: translate(-50%, -50%); background: var(--tone);
  border: 3px solid var(--background-fill-primary);
}
.scale .tick {
  position: absolute; top: -0.45rem; height: 1.4rem; width: 2px;
  background: var(--body-text-color);
}
.scale .tick span {
  position: absolute; bottom: 1.5rem; left: 0; transform: translateX(-50%);
  white-space: nowrap; font-size: 0.8rem; color: var(--body-text-color);
}
.scale .ends {
  position: relative; height: 1.3rem; margin-top: 0.5rem; font-size: 0.8rem;
  color: var(--muted); font-variant-numeric: tabular-nums;
}
.scale .ends span { position: absolute; transform: translateX(-50%); }

.faces {
  display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
}
.face, .panel {
  padding: 0.9rem; border: 1px solid var(--border-color-primary); border-radius: 0.8rem;
  background: var(--block-background-fill); min-width: 0;
}
.face h3, .panel h3 {
  margin: 0 0 0.6rem; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere;
}
.views { display: flex; gap: 0.8rem; align-items: flex-start; }
.views figure { margin: 0; min-width: 0; flex: 0 1 auto; }
.views figcaption { max-width: 12rem; }
.views svg, .views img { display: block; max-width: 100%; border-radius: 0.4rem; }
.views svg { width: auto; height: auto; max-height: 18rem; }
.whole svg {
  display: block; max-width: 100%; height: auto; max-height: 32rem;
  border-radius: 0.4rem;
}
.views img { width: 7rem; height: auto; }
.views figcaption {
  margin-top: 0.3rem; font-size: 0.8rem; color: var(--muted);
}
.remarks { margin: 0.7rem 0 0; padding-left: 1.1rem; font-size: 0.9rem; }
.remarks li { margin: 0.15rem 0; overflow-wrap: anywhere; }

.matches { display: flex; gap: 0.9rem; align-items: flex-start; }
.matches img { width: 4.5rem; height: auto; border-radius: 0.4rem; flex: none; }
.matches .who {
  margin: 0; font-size: 1.15rem; font-weight: 650; overflow-wrap: anywhere;
}
.matches .who .tag {
  display: inline-block; padding: 0.1rem 0.6rem; border-radius: 1rem;
  font-size: 0.85rem;
  background: var(--tint); color: var(--tone);
}
.matches ol { list-style: none; margin: 0.4rem 0 0; padding: 0; font-size: 0.9rem; }
.matches li { display: flex; gap: 0.8rem; justify-content: space-between; }
.matches li span { overflow-wrap: anywhere; }
.matches .list { flex: 1; min-width: 0; }
.matches data, .people data { font-variant-numeric: tabular-nums; }

.people {
  list-style: none; margin: 0; padding: 0; max-height: 18rem; overflow-y: auto;
}
.people li {
  display: flex; justify-content: space-between; gap: 1rem; padding: 0.4rem 0;
  border-top: 1px solid var(--border-color-primary);
}
.people li:first-child { border-top: 0; }
.people li span:first-child { overflow-wrap: anywhere; min-width: 0; }
.people .count { flex: none; color: var(--muted); }

.model { display: grid; gap: 1rem; }
.model dl {
  display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: 0.45rem 1rem;
  margin: 0;
}
.model dt { color: var(--muted); }
.model dd { margin: 0; overflow-wrap: anywhere; }
.model .wide { overflow-x: auto; }
.model table { border-collapse: collapse; width: 100%; }
.model .wide * { border: 0 !important; }
.model .wide th, .model .wide td {
  padding: 0.35rem 0.6rem; text-align: right; font-variant-numeric: tabular-nums;
  box-shadow: 0 1px var(--border-color-primary); overflow-wrap: normal;
  white-space: nowrap;
}
.model th { font-weight: 500; color: var(--muted); }
.model .wide th:first-child, .model .wide td:first-child {
  text-align: left; overflow-wrap: anywhere; white-space: normal; min-width: 5rem;
}
#told:not(:has(.message)) { display: none; }
#compare-choice input, #identify-choice input {
  text-overflow: ellipsis; padding-right: 2rem;
}
#forget { align-items: end; }
@media (max-width: 40rem) {
  .views img { width: 5.5rem; }
  .head h1 { font-size: 1.35rem; }
  .verdict { grid-template-columns: 1fr; padding: 1.1rem; }
  .model dl { grid-template-columns: 1fr; gap: 0; }
  .model dd { margin-bottom: 0.6rem; }
  .model .wide th, .model .wide td { padding: 0.3rem 0.25rem; font-size: 0.85rem; }
}
"""

#: A file of a kind that browsers do not show, such as PGM or TIFF, is named instead.
SCRIPT = """
() => {
  const mark = event => {
    const picture = event.target;
    if (!(picture instanceof HTMLImageElement)) return;
    const unseen = event.type === 'error';
    picture.classList.toggle('unseen', unseen);
    if (unseen) picture.alt = 'This browser cannot show the file itself.';
  };
  document.addEventListener('error', mark, true);
  document.addEventListener('load', mark, true);
}
"""


def theme() -> Any:
    """Gradio's plain theme; its own fonts would be fetched."""
    themes = require('gradio', 'demo').themes
    return themes.Base(
        primary_hue='sky',
        secondary_hue='sky',
        neutral_hue='slate',
        radius_size='lg',
        font=FONTS,
        font_mono=['ui-monospace', 'monospace'],
    ).set(
        body_background_fill='*neutral_50',
        block_border_width='1px',
        block_shadow='none',
        color_accent='#0b5cad',
        body_text_color_subdued='#56616e',
        body_text_color_subdued_dark='#a3adb8',
        button_primary_background_fill='#0b5cad',
        button_primary_background_fill_hover='#094a8c',
        button_primary_text_color='white',
        button_primary_background_fill_dark='#0b5cad',
        button_primary_background_fill_hover_dark='#0f6cc9',
        slider_color='#0b5cad',
        slider_color_dark='#4d9be0',
    )
