/**
 * SVG to pixels through resvg, as WebAssembly: one package for every platform, no native code, no browser. Its
 * fonts are given as bytes, so text looks the same on a machine without fonts: Open Sans (OFL) from npm, whose
 * files are plain TTF.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { initWasm, Resvg } from '@resvg/resvg-wasm';
import type { Image } from '../formats/image.ts';
import { encodePng } from '../formats/png.ts';

/** For `font-family` in an SVG; the others serve viewers of the SVG itself. */
export const fontFamily = "'Open Sans', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";

let ready: Promise<Uint8Array[]> | undefined;

async function load(): Promise<Uint8Array[]> {
  const require = createRequire(import.meta.url);
  await initWasm(readFileSync(require.resolve('@resvg/resvg-wasm/index_bg.wasm')));
  const faces = ['400Regular/OpenSans_400Regular.ttf', '600SemiBold/OpenSans_600SemiBold.ttf'];
  return faces.map((face) => readFileSync(require.resolve(`@expo-google-fonts/open-sans/${face}`)));
}

/**
 * An SVG drawn on white.
 * @param scale pixels per unit of the SVG
 */
export async function rasterize(svg: string, scale = 1): Promise<Image> {
  ready ??= load();
  const fontBuffers = await ready;
  const resvg = new Resvg(svg, {
    background: 'white',
    fitTo: { mode: 'zoom', value: scale },
    font: { fontBuffers, defaultFontFamily: 'Open Sans', sansSerifFamily: 'Open Sans' },
  });
  const drawn = resvg.render();
  const { width, height, pixels } = drawn;
  drawn.free();
  resvg.free();
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4) {
    data[to++] = pixels[from] as number;
    data[to++] = pixels[from + 1] as number;
    data[to++] = pixels[from + 2] as number;
  }
  return { width, height, channels: 3, data };
}

/** The bytes of a PNG; `scale` 2 is fit for screens of high density and for print. */
export async function svgToPng(svg: string, scale = 2): Promise<Uint8Array> {
  return encodePng(await rasterize(svg, scale));
}

/** Text for use inside an SVG element or attribute. Control characters, which XML cannot hold, are dropped. */
export function escapeXml(text: string): string {
  const named: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
  return text.replace(/[^\P{Cc}\t\n\r]/gu, '').replace(/[&<>"]/g, (c) => named[c] as string);
}

/** About how wide Open Sans sets a text, on the safe side; nothing here depends on it to the pixel. */
export function textWidth(text: string, size: number): number {
  let width = 0;
  for (const c of text) {
    if (/[iljtfrI.,:;'|!()[\] /-]/.test(c)) width += 0.36;
    else if (/[mwMW%@—]/.test(c)) width += 0.93;
    else width += /[A-Z]/.test(c) ? 0.68 : 0.58;
  }
  return width * size;
}
