/** The part of ComfyUI's page that the pack uses; the page brings the code. */
declare module "*/scripts/app.js" {
  export interface HostWidget {
    name: string;
    value: unknown;
    callback?: (value: unknown, ...rest: unknown[]) => unknown;
    options?: Record<string, unknown>;
    serialize?: boolean;
  }
  export interface HostGraph {
    id?: string;
    getNodeById(id: number): HostNode | null | undefined;
    setDirtyCanvas?: (front: boolean, back: boolean) => void;
  }
  export interface HostNode {
    id: number | string;
    comfyClass?: string;
    widgets?: HostWidget[];
    inputs?: { name: string; link: number | null }[];
    graph?: HostGraph | null;
    subgraph?: HostGraph;
    size: [number, number];
    computeSize(): [number, number];
    setSize(size: [number, number]): void;
    onExecuted?: (output: Record<string, unknown>) => unknown;
    onConfigure?: (...rest: unknown[]) => unknown;
    onConnectionsChange?: (...rest: unknown[]) => unknown;
    onRemoved?: (...rest: unknown[]) => unknown;
    addDOMWidget(
      name: string,
      type: string,
      element: HTMLElement,
      options: Record<string, unknown>,
    ): HostWidget;
  }
  export const app: {
    registerExtension(extension: Record<string, unknown>): void;
    graph?: HostGraph;
    rootGraph?: HostGraph;
    canvas: {
      canvas: HTMLCanvasElement;
      processMouseDown?: (event: PointerEvent) => void;
      processMouseMove?: (event: PointerEvent) => void;
      processMouseUp?: (event: PointerEvent) => void;
    };
    extensionManager?: {
      setting?: { get(id: string): unknown };
      workflow?: { activeWorkflow?: { changeTracker?: { checkState?: () => void } } };
    };
  };
}

declare module "*/scripts/api.js" {
  export const api: {
    fetchApi(path: string, options?: RequestInit): Promise<Response>;
    apiURL(path: string): string;
    addEventListener(type: string, listener: (event: CustomEvent<any>) => void): void;
  };
}
