/**
 * Tensors in texels: a texture in place of a buffer, four elements a texel, in rows of ROW texels. Software drivers read a texel as one
 * vector, where they test each element of a buffer lane by lane, so what a kernel reads many times is copied there first.
 * Kernels read them through `itemText`; nothing else does.
 */
import type { Kernel } from './kernel.ts';

/** Texels of a row. */
const ROW = 512;
/** Bytes of a row. */
export const texelRowBytes = 16 * ROW;

export function createTexels(device: GPUDevice, bytes: number, label: string): GPUTexture {
  return device.createTexture({
    size: [ROW, Math.ceil(bytes / texelRowBytes)],
    format: 'rgba32float',
    usage: 0x2 | 0x8, // COPY_DST | STORAGE_BINDING
    label,
  });
}

/** The copy of a buffer x into texels y, as a step of a program; the driver has the code. */
export const texelCopy: Kernel = {
  name: 'copy into texels',
  code: '',
  bindings: [
    { name: 'x', index: 0, writable: false, texels: false, floats: true },
    { name: 'y', index: 1, writable: true, texels: true, floats: true },
  ],
  params: [],
  paramsIndex: -1,
  paramsSize: 0,
};

/** Copies `bytes` of a buffer, a multiple of 16: the rows that are full, then what is left. */
export function copyIntoTexels(
  encoder: GPUCommandEncoder,
  buffer: GPUBuffer,
  texture: GPUTexture,
  bytes: number,
): void {
  const rows = Math.floor(bytes / texelRowBytes);
  const rest = (bytes % texelRowBytes) / 16;
  const copy = (row: number, size: [number, number]) =>
    encoder.copyBufferToTexture(
      { buffer, offset: row * texelRowBytes, bytesPerRow: texelRowBytes },
      { texture, origin: [0, row] },
      size,
    );
  if (rows > 0) copy(0, [ROW, rows]);
  if (rest > 0) copy(rows, [rest, 1]);
}

/**
 * WGSL that declares what a kernel reads many times, and `item<suffix>(i)`, its i-th item.
 * @param declared the binding, its name and the type of an item, vec4<f32> where it lies in texels
 */
export function itemText(
  suffix: string,
  { binding, name, type }: { readonly binding: number; readonly name: string; readonly type: string },
  texels: boolean,
): string {
  const at = `@group(0) @binding(${binding})`;
  if (!texels)
    return `
${at} var<storage, read> ${name}: array<${type}>;
fn item${suffix}(i: u32) -> ${type} { return ${name}[i]; }`;
  return `
${at} var ${name}: texture_storage_2d<rgba32float, read>;
fn item${suffix}(i: u32) -> ${type} { return textureLoad(${name}, vec2(i % ${ROW}u, i / ${ROW}u)); }`;
}
