/**
 * Other engines, on the same cases in the same run. Those of JavaScript are installed apart (bench/peers has its own
 * package.json) and run in this process on our adapter; PyTorch runs beside it.
 */
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Device } from '../src/engine/device.ts';
import { InputError } from '../src/engine/errors.ts';
import { Torch, torchPeers } from './torch.ts';

/** A case as peers see it: plain data, channels last. */
export interface PeerCase {
  readonly op: string;
  readonly pass: string;
  readonly inputs: Readonly<
    Record<string, { readonly shape: readonly number[]; readonly data: Float32Array }>
  >;
  readonly [setting: string]: unknown;
}

export interface Prepared {
  once(): Promise<unknown>;
  /** Outputs, in our layouts. */
  result(): Promise<readonly Float32Array[]>;
  dispose(): unknown;
}

export interface Peer {
  readonly name: string;
  /** Version, and where it runs. */
  readonly about: string;
  /** @throws Error where the peer cannot do the case */
  prepare(c: PeerCase): Promise<Prepared>;
  close?(): Promise<void>;
}

/** The project, seen from wherever the bundler has put this file. */
function projectFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'bench', 'peers', 'package.json'))) folder = dirname(folder);
  return folder;
}

export const peersFolder = join(projectFolder(), 'bench', 'peers');
const torchScript = join(peersFolder, 'torch_peer.py');

const openTorch = () => Torch.open(torchScript);

/** PyTorch alone, which is said on the console, or why there is none. */
export async function torchOrProblem(): Promise<{ torch: Torch | null; problem: string }> {
  try {
    const torch = await openTorch();
    console.log(`peer torch: ${torch.version}`);
    return { torch, problem: '' };
  } catch (error) {
    const problem = (error as Error).message;
    console.log(`peer missing: torch: ${problem}`);
    return { torch: null, problem };
  }
}

const peerNames = ['tfjs', 'jax-js', 'ort-web wasm', 'ort-web webgpu', 'torch'];

/** @throws InputError for names that no peer has */
export function checkPeers(named: readonly string[]): void {
  const strange = named.find((name) => !peerNames.includes(name));
  if (strange !== undefined)
    throw new InputError(
      `--only ${named.join(',')}: no peer is called "${strange}"; there are ${peerNames.join(', ')}`,
    );
}

/** The peers named, or all, that can be opened, and a line for each that cannot. */
export async function openPeers(
  device: Device,
  named: readonly string[],
): Promise<{ peers: Peer[]; missing: string[] }> {
  const peers: Peer[] = [];
  const missing: string[] = [];
  const open = async (name: string, f: () => Promise<Peer | Peer[]>) => {
    if (named.length > 0 && !named.includes(name)) return;
    try {
      peers.push(...[await f()].flat());
    } catch (error) {
      missing.push(`${name}: ${(error as Error).message.split('\n')[0]}`);
    }
  };
  if (existsSync(join(peersFolder, 'node_modules'))) {
    const gpu = await browserGlobals(device);
    const load = async (file: string, options: object) => {
      const module = await import(pathToFileURL(join(peersFolder, file)).href);
      return module.open(options) as Promise<Peer>;
    };
    await open('tfjs', () => load('tfjs.mjs', { gpu }));
    await open('jax-js', () => load('jax.mjs', {}));
    // Minutes to prepare a case on a software driver, so only when asked for by name.
    if (named.includes('ort-web webgpu'))
      await open('ort-web webgpu', () => load('ort.mjs', { provider: 'webgpu' }));
    await open('ort-web wasm', () => load('ort.mjs', { provider: 'wasm', threads: availableParallelism() }));
  } else {
    missing.push('tfjs, jax-js, ort-web: not installed; npm ci --prefix bench/peers');
  }
  await open('torch', async () => torchPeers(await openTorch()));
  return { peers, missing };
}

/**
 * What engines for browsers expect to find: `navigator.gpu`, here the GPU behind our device, and WebGPU's constants.
 * onnxruntime-web writes buffers from shared memory, which Dawn's binding refuses, so it is handed a copy.
 */
async function browserGlobals(device: Device): Promise<GPU> {
  const { globals } = await import('webgpu');
  Object.assign(globalThis, globals);
  const gpu = {
    wgslLanguageFeatures: device.gpu.wgslLanguageFeatures,
    getPreferredCanvasFormat: () => 'rgba8unorm',
    async requestAdapter(options?: GPURequestAdapterOptions) {
      const adapter = await device.gpu.requestAdapter(options);
      if (!adapter) return null;
      const request = adapter.requestDevice.bind(adapter);
      adapter.requestDevice = async (descriptor) => {
        const made = await request(descriptor);
        const { queue } = made;
        const write = queue.writeBuffer.bind(queue);
        queue.writeBuffer = (buffer, offset, data, from, size) => {
          const shared = ArrayBuffer.isView(data) && data.buffer instanceof SharedArrayBuffer;
          write(buffer, offset, shared ? new Uint8Array(data as Uint8Array) : data, from, size);
        };
        return made;
      };
      return adapter;
    },
  } as unknown as GPU;
  const navigator = { gpu, userAgent: 'node', hardwareConcurrency: availableParallelism() };
  Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true });
  return gpu;
}

/** Largest difference over the largest value. */
export function difference(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  a.forEach((x, i) => {
    const y = b[i] as Float32Array;
    if (x.length !== y.length) worst = Number.POSITIVE_INFINITY;
    let most = 0;
    let apart = 0;
    for (let j = 0; j < x.length; j++) {
      apart = Math.max(apart, Math.abs((x[j] as number) - (y[j] as number))); // a NaN stays
      most = Math.max(most, Math.abs(x[j] as number));
    }
    worst = Number.isNaN(apart) ? Number.POSITIVE_INFINITY : Math.max(worst, apart / most);
  });
  return worst;
}
