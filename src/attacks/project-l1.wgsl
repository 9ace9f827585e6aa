// x = clean + the projection of x − clean (l1-projection.wgsl). reduce.wgsl and l1-projection.wgsl stand before.
// Constants: THREADS. Grid: one workgroup an image.
struct Params { rows: u32, size: u32, radius: f32 }
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> clean: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

fn raw(i: u32) -> f32 { return x[i] - clean[i]; }

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.x + group.y * groups.x;
  if (row >= params.rows) { return; }
  let first = row * params.size;
  let end = first + params.size;
  l1_project(first, end, lane, params.radius);
}
