/**
 * Every network of the paper at full size, with synthetic weights, against PyTorch in float64. The promise: outputs
 * within 1e-4, input gradients within 1e-3, in norm. With CMAP_WRITE_DOCS=1 the results become docs/networks.md.
 */
import { existsSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { countParameters } from '../../src/nets/parameters.ts';
import { type Network, network } from '../../src/nets/registry.ts';
import { writeFileAtomic } from '../../src/report/files.ts';
import { type ParityResult, parity } from '../nets/parity.ts';
import { root, testDevice } from '../support.ts';

/** Name, the checkpoint it loads, fixture where it lies elsewhere. */
const networks: readonly (readonly [name: string, checkpoint: string, fixture?: string])[] = [
  ['ncsnpp-cifar10', 'openai/consistency_models_cifar10 (Flax `params_ema`; PyTorch port)'],
  ['adm-imagenet64', 'openai/consistency_models, unconditional (CMAP’s own training)'],
  ['adm-imagenet64-cond', 'openai/consistency_models: cd_imagenet64_lpips, ct_imagenet64'],
  ['ddpmpp-cifar10', 'score_sde: cifar10_ddpmpp_deep_continuous, checkpoint_8'],
  ['improved-diffusion-imagenet64', 'improved-diffusion: imagenet64_uncond_100M_1500K'],
  ['wrn-28-10', 'RobustBench Standard, CIFAR-10'],
  ['dm-wrn-28-10', 'RobustBench DMWideResNet (Swish), CIFAR-10'],
  ['dm-wrn-70-16', 'DiffPure’s WRN-70-16, CIFAR-10'],
  ['resnet50', 'torchvision, ImageNet-100 head, 64×64'],
  ['resnet101', 'torchvision, ImageNet-100 head, 64×64'],
  ['wrn-50-2', 'torchvision, ImageNet-100 head, 64×64'],
  ['resnet20', 'akamaster/pytorch_resnet_cifar10', 'small/resnet20'],
  ['resnet32', 'akamaster/pytorch_resnet_cifar10'],
  ['resnet44', 'akamaster/pytorch_resnet_cifar10'],
  ['resnet56', 'akamaster/pytorch_resnet_cifar10'],
  ['resnet2b', 'alpha-beta-CROWN', 'small/resnet2b'],
  ['resnet4b', 'alpha-beta-CROWN', 'small/resnet4b'],
  ['cnn_a', 'alpha-beta-CROWN: cifar_cnn_a_adv, _adv4, _mix4', 'small/cnn_a'],
  ['conv_small', 'alpha-beta-CROWN: cifar_conv_small_pgd', 'small/conv_small'],
];

interface Row {
  readonly name: string;
  readonly checkpoint: string;
  readonly parameters: number;
  readonly seconds: number;
  readonly results: readonly ParityResult[];
}
const rows: Row[] = [];
const declared = (net: Network) =>
  net.kind === 'classifier' ? net.architecture.parameters : net.unet.parameters;

for (const [name, checkpoint, fixture = `full/${name}`] of networks) {
  test(`${name} at full size`, async () => {
    assert.ok(existsSync(`${root}test/fixtures/nets/${fixture}.safetensors`), 'fixture');
    const device = await testDevice();
    const net = network(name);
    const start = performance.now();
    const results = await parity(device, `nets/${fixture}`, net, { program: true });
    const seconds = (performance.now() - start) / 1000;
    device.trim();
    for (const { at, y, dx } of results)
      console.log(`  ${name}${at && ` at ${at}`}: y ${y.toExponential(1)}, dx ${dx.toExponential(1)}`);
    rows.push({ name, checkpoint, parameters: countParameters(declared(net)), seconds, results });
    assert.ok(results.length > 0);
    for (const { at, y, dx } of results) {
      assert.ok(y <= 1e-4, `output at ${at}: ${y}`);
      assert.ok(dx <= 1e-3, `input gradient at ${at}: ${dx}`);
    }
  });
}

test.after(async () => {
  if (process.env.CMAP_WRITE_DOCS !== '1' || rows.length < networks.length) return;
  const { adapter } = await testDevice();
  const worst = (row: Row, f: (r: ParityResult) => number) =>
    Math.max(...row.results.map(f)).toExponential(1);
  const cells = rows.map((row) => [
    `\`${row.name}\``,
    row.parameters.toLocaleString('en'),
    row.checkpoint,
    row.results.map((r) => r.at).join(', ') || '–',
    worst(row, (r) => r.y),
    worst(row, (r) => r.dx),
    worst(row, (r) => r.torch.y),
    worst(row, (r) => r.torch.dx),
    row.seconds.toFixed(0),
  ]);
  const head = ['network', 'parameters', 'checkpoint', 'σ or time', 'output', 'gradient'];
  const table = [
    `| ${[...head, 'PyTorch output', 'PyTorch gradient', 'seconds'].join(' | ')} |`,
    '| --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |',
    ...cells.map((row) => `| ${row.join(' | ')} |`),
  ];
  writeFileAtomic(
    `${root}docs/networks.md`,
    `# Networks against PyTorch

Written by \`CMAP_WRITE_DOCS=1 npm run test:full -- networks\` on ${new Date().toISOString().slice(0, 10)}, ${adapter.name}.

Every network at its full size, with the weights of a formula (\`reference/synthetic.py\`: variance 1/fan-in, norms and
running statistics off their neutral values), one random image, and a random cotangent. _Output_ and _gradient_ are
‖Δ‖/‖reference‖ against PyTorch in float64 on the same float32 weights and input, the worst over the points listed;
_PyTorch_ is how far PyTorch's own float32 is from the same reference. The test asserts 1e-4 and 1e-3, the parameter
count, and every name and shape of the PyTorch module. Seconds are for loading, output and gradient at all points.

${table.join('\n')}

The checkpoints themselves are not part of this project; \`cmap forward --net NAME --weights FILE\` loads them as they
were published.
`,
  );
});

test.run();
