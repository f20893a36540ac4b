"""Label Studio's side of the loop: tasks, images, label config, publishing, doctor."""
