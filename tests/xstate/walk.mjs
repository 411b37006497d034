// Walks statecharts with XState. Each line of the input is one chart with what its guards see at
// each boundary; each line of the output is the configuration after each boundary, with the counts.
import readline from "node:readline";
import { and, assign, createActor, createMachine, not, or, stateIn } from "xstate";

const stepOf = (event) => event.step ?? 0; // the chart is entered at boundary 0

// Guards. `not` stands at the leaves only, and what is unknown (null) is neither true nor false.
function guardOf(tree) {
  switch (tree.type) {
    case "all":
      return and(tree.of.map(guardOf));
    case "any":
      return or(tree.of.map(guardOf));
    case "frame":
      return ({ event }) => event.truth[tree.name] === tree.is;
    case "in":
      return tree.is ? stateIn(tree.state) : not(stateIn(tree.state));
    case "visits":
      return ({ context }) => (context.visits[tree.stage] ?? 0) >= tree.times === tree.is;
    case "elapsed":
      return ({ context, event }) =>
        stepOf(event) - context.entered[tree.region] >= tree.steps === tree.is;
    case "fewer":
      return ({ context }) => (context.fired[tree.edge] ?? 0) < tree.than;
    case "constant":
      return () => tree.is;
    default:
      throw new Error(`no guard is called ${tree.type}`);
  }
}

const plusOne = (counts, key) => ({ ...counts, [key]: (counts[key] ?? 0) + 1 });

const entering = (region, stage) =>
  assign(({ context, event }) => ({
    entered: { ...context.entered, [region]: stepOf(event) },
    visits: plusOne(context.visits, stage),
  }));

const firing = (edge, stops) =>
  assign(({ context }) => ({
    fired: plusOne(context.fired, edge),
    stopped: context.stopped || stops,
  }));

function transitionOf(way) {
  const made = { guard: guardOf(way.guard), actions: firing(way.edge, way.target === null) };
  return way.target === null ? made : { ...made, target: way.target, reenter: true };
}

function stateOf(region, name, stage) {
  const state = { entry: entering(region, `${region}:${name}`) };
  if (stage.final) return { ...state, type: "final" };
  if (stage.through) return { ...state, always: { target: stage.through } };
  return { ...state, on: { BOUNDARY: stage.ways.map(transitionOf) } };
}

function machineOf(chart) {
  const regions = Object.entries(chart.regions).map(([region, { initial, stages }]) => {
    const states = Object.entries(stages).map(([name, s]) => [name, stateOf(region, name, s)]);
    return [region, { initial, states: Object.fromEntries(states) }];
  });
  return createMachine({
    type: "parallel",
    context: { entered: {}, visits: {}, fired: {}, stopped: false },
    states: Object.fromEntries(regions),
  });
}

const seen = ({ value, context: { visits, fired, stopped } }) => ({ value, visits, fired, stopped });

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { chart, boundaries } = JSON.parse(line);
  const actor = createActor(machineOf(chart)).start();
  const walked = [seen(actor.getSnapshot())];
  for (const boundary of boundaries) {
    actor.send({ type: "BOUNDARY", ...boundary });
    walked.push(seen(actor.getSnapshot()));
  }
  console.log(JSON.stringify(walked));
}
