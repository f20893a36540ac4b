"""Pixels in, detections and embeddings out. Knows nothing of Label Studio.

bytes --picture.decode--> Picture --Models.prepare--> ImageInputs --Models.observe--> Observation

picture.py      bytes -> upright RGB pixels             weights.py      where weights may come from
letterbox.py    a picture -> the detector's input       conversion.py   to OpenVINO, once
detector.py     the contract of a detector              encoder.py      the contract of an encoder
yolo.py         Ultralytics behind it                   clip.py         OpenCLIP behind it
foreign.py      .onnx and OpenVINO files of others      regions.py      feature maps -> vectors
decoder.py      raw head output -> Detections           engines.py      runs a network: OpenVINO on
models.py       the settings -> everything, loaded                      a CPU, torch on a GPU
pipeline.py     decoding threads beside one worker
"""
