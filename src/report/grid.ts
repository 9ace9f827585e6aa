/**
 * Images side by side with headings and captions, as one PNG on white. The text is an SVG drawn by resvg; the
 * images are copied into the drawing pixel by pixel, enlarged by a whole number, so no filter touches them.
 */
import { type Image, toRgb, upscale } from '../formats/image.ts';
import { encodePng } from '../formats/png.ts';
import { escapeXml, fontFamily, rasterize, textWidth } from './raster.ts';

export type Tone = 'plain' | 'good' | 'bad' | 'muted';

export interface Caption {
  readonly text: string;
  /** Good is green, bad is red; default plain. */
  readonly tone?: Tone;
}

export interface Cell {
  /** Without one, the captions stand in the middle of the place. */
  readonly image?: Image;
  /** Lines under the image. */
  readonly captions?: readonly Caption[];
}

export interface GridRow {
  /** Before the row. */
  readonly label?: string;
  /** null leaves a place empty. */
  readonly cells: readonly (Cell | null)[];
}

export interface Grid {
  readonly title?: string;
  /** Under the title. */
  readonly subtitle?: string;
  /** Headings of the columns. */
  readonly columns: readonly string[];
  readonly rows: readonly GridRow[];
  /** Pixels that the longer side of an image is enlarged to at least, by a whole number; default 112. */
  readonly size?: number;
}

const tones: Record<Tone, string> = { plain: '#24292f', good: '#1a7f37', bad: '#c62828', muted: '#6e7781' };

/** Pixels; sizes of text include their line's spacing. */
const layout = {
  margin: 24,
  gap: 16,
  rowGap: 18,
  title: 18,
  subtitle: 13,
  heading: 14,
  caption: 13,
  line: 18,
};

/** Draws a grid. Images may differ in size; each is enlarged by its own whole number. */
export async function composeGrid(grid: Grid): Promise<Image> {
  const { size = 112, columns, rows } = grid;
  const longest = Math.max(0, ...rows.map((row) => row.cells.length));
  if (longest > columns.length)
    throw new RangeError(`grid: ${longest} cells in a row, but ${columns.length} columns`);
  const enlarged = rows.map((row) =>
    row.cells.map((cell) => {
      if (!cell) return null;
      const { image, captions = [] } = cell;
      if (!image) return { captions };
      const factor = Math.max(1, Math.ceil(size / Math.max(image.width, image.height)));
      return { image: toRgb(upscale(image, factor)), captions };
    }),
  );
  const text: string[] = [];
  const write = (x: number, y: number, content: string, style: string) =>
    text.push(`<text x="${x}" y="${y}" ${style}>${escapeXml(content)}</text>`);

  // Widths: a column holds its widest image, heading or caption.
  const labelWidth = Math.max(
    0,
    ...rows.map((row) => (row.label ? textWidth(row.label, layout.heading) + layout.gap : 0)),
  );
  const widths = columns.map((heading, c) =>
    Math.ceil(
      Math.max(
        textWidth(heading, layout.heading),
        ...enlarged.map((row) => row[c]?.image?.width ?? 0),
        ...enlarged.flatMap(
          (row) => row[c]?.captions.map((caption) => textWidth(caption.text, layout.caption)) ?? [],
        ),
      ),
    ),
  );
  const lefts: number[] = [];
  let x = layout.margin + Math.ceil(labelWidth);
  for (const width of widths) {
    lefts.push(x);
    x += width + layout.gap;
  }
  const header = [textWidth(grid.title ?? '', layout.title), textWidth(grid.subtitle ?? '', layout.subtitle)];
  const width = Math.ceil(
    Math.max(x - layout.gap, ...header.map((wide) => layout.margin + wide)) + layout.margin,
  );

  let y = layout.margin;
  if (grid.title) {
    write(
      layout.margin,
      y + 18,
      grid.title,
      `font-size="${layout.title}" font-weight="600" fill="${tones.plain}"`,
    );
    y += 32;
  }
  if (grid.subtitle) {
    write(layout.margin, y + 10, grid.subtitle, `font-size="${layout.subtitle}" fill="${tones.muted}"`);
    y += 32;
  }
  if (columns.some((heading) => heading !== '')) {
    columns.forEach((heading, c) => {
      const middle = (lefts[c] as number) + (widths[c] as number) / 2;
      write(
        middle,
        y + 14,
        heading,
        `text-anchor="middle" font-size="${layout.heading}" font-weight="600" fill="${tones.plain}"`,
      );
    });
    y += 26;
  }

  const placed: { image: Image; x: number; y: number }[] = [];
  rows.forEach((row, r) => {
    const cells = enlarged[r] as (typeof enlarged)[number];
    const height = Math.max(0, ...cells.map((cell) => cell?.image?.height ?? 0));
    const lineCount = Math.max(0, ...cells.map((cell) => (cell?.image ? cell.captions.length : 0)));
    if (row.label) {
      write(
        layout.margin,
        y + height / 2 + 5,
        row.label,
        `font-size="${layout.heading}" font-weight="600" fill="${tones.plain}"`,
      );
    }
    cells.forEach((cell, c) => {
      if (!cell) return;
      const middle = (lefts[c] as number) + (widths[c] as number) / 2;
      const { image, captions } = cell;
      if (image) {
        const x = Math.round(middle - image.width / 2);
        placed.push({ image, x, y: y + Math.floor((height - image.height) / 2) });
      }
      const first = y + (image ? height + 16 : (height - (captions.length - 1) * layout.line) / 2 + 5);
      captions.forEach((caption, i) => {
        const style = `text-anchor="middle" font-size="${layout.caption}" fill="${tones[caption.tone ?? 'plain']}"`;
        write(middle, first + i * layout.line, caption.text, style);
      });
    });
    y += height + lineCount * layout.line + layout.rowGap;
  });
  const height = Math.ceil(y - (rows.length > 0 ? layout.rowGap : 0) + layout.margin);

  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="${fontFamily}">${text.join('')}</svg>`;
  const canvas = await rasterize(svg);
  for (const { image, x, y } of placed) paste(canvas, image, x, y);
  return canvas;
}

/** The bytes of the PNG. */
export async function gridToPng(grid: Grid): Promise<Uint8Array> {
  return encodePng(await composeGrid(grid));
}

function paste(canvas: Image, image: Image, x: number, y: number): void {
  const bytes = image.width * 3;
  for (let row = 0; row < image.height; row++) {
    canvas.data.set(image.data.subarray(row * bytes, (row + 1) * bytes), ((y + row) * canvas.width + x) * 3);
  }
}
