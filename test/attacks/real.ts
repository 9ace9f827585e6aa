/** PGD on published CIFAR-10 networks beside PyTorch's: what test/attacks/real.test.ts and test/full/pgd-real.test.ts share. */
import { readdirSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { Pgd } from '../../src/attacks/pgd.ts';
import { loadCifar10 } from '../../src/data/cifar10.ts';
import { openCheckpoint } from '../../src/formats/checkpoint.ts';
import { ClassifierNet } from '../../src/nets/classifier.ts';
import { network } from '../../src/nets/registry.ts';
import { loadFixture, sharedData, testDevice } from '../support.ts';
import { unpackedCifar10 } from '../support-data.ts';

/** An entry of the fixture: PGD without a random start, L∞. */
export interface RealPgdRow {
  /** The fixture's name of the network, and of its tensors. */
  readonly name: string;
  readonly key: string;
  readonly eps: number;
  readonly steps: number;
  readonly stepSize: number;
}

const fixture = () => loadFixture('attacks/real-pgd');
export const realPgdRows = (): RealPgdRow[] => JSON.parse(fixture().metadata.rows as string);

/** The network of a fixture's name, from the shared data; null without them. */
export async function realNet(name: string): Promise<ClassifierNet | null> {
  const data = sharedData();
  if (!data) return null;
  const [group, net] = /^resnet\d+$/.test(name)
    ? ['cifar_resnet', name]
    : ['cifar_robust', name.replace(/^cifar_(cnn_a|conv_small).*/, '$1')];
  const file = readdirSync(`${data}/${group}`).find(
    (f) => f.startsWith(name) && /^(-\w+)?\.(th|pth|model)$/.test(f.slice(name.length)),
  );
  const source = await openCheckpoint(`${data}/${group}/${file}`);
  const found = network(net, undefined, source);
  if (found.kind !== 'classifier') throw new Error(`${name} is no classifier`);
  const loaded = ClassifierNet.load(await testDevice(), found.architecture, source);
  source.close();
  return loaded;
}

/** Losses of the last iterates beside PyTorch's in float64. */
export interface Differences {
  readonly robust: number;
  /** Images with another success, and the margin z_y − max z_j of the float64 loop there. */
  readonly flips: { readonly image: number; readonly margin: number }[];
  /** |a − b| / (1 + |b|) of the losses. */
  readonly median: number;
  readonly worst: number;
  /** Losses further than 1e-3. */
  readonly beyond: number;
}

/** A published network and its first test images, as `fashion` gives the shipped one; null without shared data. */
export async function cifar(name: string, count: number) {
  const folder = await unpackedCifar10('test');
  const net = await realNet(name);
  if (!net || !folder) return null;
  const device = await testDevice();
  const { images, labels } = loadCifar10({ split: 'test', folder, count });
  const x = device.tensor(images, [count, 32, 32, 3]);
  const dispose = () => {
    x.dispose();
    net.dispose();
  };
  return { device, net, x, labels: [...labels], images, size: 3072, dispose };
}

/** @returns null without shared data */
export async function comparePgd(row: RealPgdRow, images: number) {
  const f = await cifar(row.name, images);
  if (!f) return null;
  const { eps, steps, stepSize } = row;
  const attack = new Pgd({ eps, steps, stepSize, randomStart: false, seed: 0 });
  const result = await attack.run(f.net, f.x, f.labels, { batch: Math.min(images, 50) });
  result.adversarial.dispose();
  f.dispose();
  const of = (part: string) => [...fixture().get(`${row.key}.${part}`).data.slice(0, images)];
  const [loss, margin] = [of('loss'), of('margin')];
  const against = (losses: readonly number[], success: readonly boolean[]): Differences => {
    const each = losses.map((v, i) => Math.abs(v - (loss[i] as number)) / (1 + (loss[i] as number)));
    const sorted = [...each].sort((a, b) => a - b);
    return {
      robust: success.filter((hit) => !hit).length,
      flips: success.flatMap((hit, i) => {
        const m = margin[i] as number;
        return hit === m <= 0 ? [] : [{ image: i, margin: m }];
      }),
      median: sorted[images >> 1] as number,
      worst: sorted.at(-1) as number,
      beyond: sorted.filter((d) => d > 1e-3).length,
    };
  };
  const fooled = (m: readonly number[]) => m.map((v) => v <= 0);
  return {
    images,
    ours: against(result.loss, result.success),
    theirs: against(loss, fooled(margin)),
    float32: against(of('float32.loss'), fooled(of('float32.margin'))),
  };
}

/**
 * Fails unless every success is PyTorch's but for near-ties, and no more losses are beyond 1e-3 than rounding puts there:
 * PyTorch's own float32, and 1 % of the images for chance.
 */
export function assertAgrees({ images, ours, float32 }: NonNullable<Awaited<ReturnType<typeof comparePgd>>>) {
  const widest = Math.max(0, ...float32.flips.map((f) => Math.abs(f.margin)));
  for (const { image, margin } of ours.flips) {
    const near = Math.abs(margin) <= Math.max(0.01, 2 * widest);
    assert.ok(near, `image ${image}: another success, where PyTorch's margin is ${margin}`);
  }
  const chance = Math.ceil(0.01 * images);
  assert.ok(
    ours.flips.length <= 2 * float32.flips.length + chance,
    `${ours.flips.length} other successes, PyTorch's float32 has ${float32.flips.length}`,
  );
  assert.ok(
    ours.beyond <= 2 * float32.beyond + chance,
    `${ours.beyond} losses beyond 1e-3, PyTorch's float32 has ${float32.beyond}`,
  );
  const most = Math.max(1e-3, 2 * float32.median);
  assert.ok(ours.median < most, `median difference of losses ${ours.median}, float32's ${float32.median}`);
}
